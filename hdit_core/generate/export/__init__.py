"""`hdit export`: weights, recipe and model card in a folder for publication."""
