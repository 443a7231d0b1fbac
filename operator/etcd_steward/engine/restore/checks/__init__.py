"""What is looked at before a plan is shown: each module finds one kind of harm."""
