"""Labels and how they join images: numbers in any form, names of files, label files among the images."""
