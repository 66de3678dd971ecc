"""The model: families of its blocks on one device, its loss, its cache, and its weights in the Hugging Face layout."""
