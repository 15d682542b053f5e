"""`hdit prepare-data`: any source of images to verified webdataset shards."""
