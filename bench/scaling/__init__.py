"""The scale model: what each rank does, what ranks send each other, and how long it takes."""
