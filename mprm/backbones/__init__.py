"""Vision-language backbones with a two-row step head."""
