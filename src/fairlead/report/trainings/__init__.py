"""What a training says of itself: its loss on held-out images (`validation`), and its page (`training_page`)."""
