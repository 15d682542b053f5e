"""Labels and how they join images: numbers in any form, names of files, label files that lie among the images."""
