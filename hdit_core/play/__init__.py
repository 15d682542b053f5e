"""`hdit play`: a local page that samples, edits and compares models, and shows a run while it trains."""
