"""The first two moments of each class of a data set."""

import torch

from fairlead.data.digits import load_digits
from fairlead.data.images import ImageData, to_float
from fairlead.nets.noisy_classifier import FLOOR
from fairlead.train.moments import class_moments


def test_they_are_the_mean_and_the_largest_eigenvalues_of_the_covariance() -> None:
    data = load_digits("train")
    found = class_moments(data, 6)
    assert torch.equal(found.share, (data.labels.bincount().double() / len(data)).float())
    for label in (0, 7):
        x = to_float(data.images[data.labels == label]).flatten(1)
        torch.testing.assert_close(found.mean[label], x.mean(0))
        values, axes = torch.linalg.eigh(torch.cov(x.T).double())
        torch.testing.assert_close(found.variance[label].double() - FLOOR, values.flip(0)[:6], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(
            found.rest[label].double() - FLOOR, (values.sum() - values.flip(0)[:6].sum()) / 58, rtol=1e-3, atol=1e-5
        )
        overlap = (axes.flip(1)[:, :3].T.float() @ found.axes[label, :3].T).abs()
        torch.testing.assert_close(overlap, torch.eye(3), rtol=0, atol=0.02)


def test_a_class_of_one_image_has_its_mean_and_one_without_images_that_of_all() -> None:
    images = torch.randint(0, 256, (4, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = ImageData(images, torch.tensor([0, 0, 0, 1]), ("a", "b", "c"), "made", "train", False)
    found = class_moments(data, 5)
    x = to_float(images).flatten(1)
    torch.testing.assert_close(found.mean, torch.stack([x[:3].mean(0), x[3], x.mean(0)]))
    torch.testing.assert_close(found.share, torch.tensor([3, 1, 0.5]) / 4.5)
    assert torch.equal(found.variance[1], torch.full((5,), FLOOR))
    assert all(bool(part.isfinite().all()) for part in found)


def test_mirrored_images_count_where_they_are_images_of_the_set() -> None:
    images = torch.randint(0, 256, (6, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = ImageData(images, torch.zeros(6, dtype=torch.int64), ("a",), "made", "train", True)
    mean = class_moments(data, 2).mean.reshape(3, 4, 4)
    torch.testing.assert_close(mean, mean.flip(-1))
