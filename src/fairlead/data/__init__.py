"""Labelled images and exact toys: `images` (the data set in memory, its batches and splits), `digits` (bundled with
scikit-learn), `hub` (`load_data`: short names, local folders, hub names), `folders` (what a local folder holds),
`decode` (image files to uint8 tensors) and `toys` (Gaussians whose scores, posteriors and flows are closed forms)."""
