"""The last look at what is to be published."""
