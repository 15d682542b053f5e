"""`hdit sweep`: search of guidance and EMA settings for the best score."""
