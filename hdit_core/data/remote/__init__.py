"""Prepared data sets on remote stores, read through a local cache."""
