"""Publishing a model: the folder, its papers, its signature, and the program that checks them."""
