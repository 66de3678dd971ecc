"""What a model hangs on."""
