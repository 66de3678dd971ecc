"""The model: DeepSeek-V3 on one device, its loss, its cache, and its weights in the Hugging Face layout."""
