"""What a model is made of, and how data flow through it; nothing is changed."""
