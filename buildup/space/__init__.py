"""What may be searched: YAML to frozen values."""
