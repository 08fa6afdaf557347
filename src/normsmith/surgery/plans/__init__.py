"""What a plan is, and how it is applied, verified and taken back."""
