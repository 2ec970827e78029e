"""Labelled images and exact toys: `images` (a data set and its splits), `batches` (of training), `digits` (bundled with
scikit-learn), `hub` (`load_data`: short names, local folders and files, hub names), `own` (people's own images: what a
folder holds, how it comes to one size and into a mapped file), `decode` (image files to uint8 arrays) and `toys`
(Gaussians whose scores, posteriors and flows are closed forms)."""
