"""Graph to timm module and back."""
