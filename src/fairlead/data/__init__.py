"""Labelled images and exact toys: `images` (the data set in memory, its batches and splits), `digits` (bundled with
scikit-learn), `hub` (`load_data`: short names, local folders, hub names), `decode` (image files to uint8 tensors) and
`toys` (Gaussians whose scores, posteriors and flows are closed forms)."""
