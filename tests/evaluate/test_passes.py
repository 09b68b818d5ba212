"""One pass: moments of any n, merged over parts and ranks, bounded memory, class scores, guarded input."""

import numpy as np
import pytest
import torch

from genflow.evaluate.checks import ImageCheck, NotMeasurable, to_grey
from genflow.evaluate.features import Space
from genflow.evaluate.frechet import Factor, Statistics, frechet, frechet_distance, statistics
from genflow.evaluate.passes import Moments, ScoreSums, feature_pass

PLAIN = Space("plain", "plain", "features 'plain'", lambda raw: raw.flatten(1))


def draws(n, d, seed):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) @ mix + seed


def moments(x, batch):
    found = Moments(x.shape[1])
    for part in x.split(batch):
        found.update(part)
    return found


@pytest.mark.parametrize("n", [2, 11, 12, 13, 25, 400])
@pytest.mark.parametrize("batch", [1, 5, 64])
def test_moments_do_not_depend_on_batches_and_keep_rows_where_there_are_few(n, batch):
    x, other = draws(n, 12, 1), statistics(draws(300, 12, 2))
    found = moments(x, batch).result()
    assert isinstance(found, Factor if n <= 12 else Statistics)
    assert found.n == n
    cov = found.rows.T @ found.rows if isinstance(found, Factor) else found.cov
    torch.testing.assert_close(found.mean, x.mean(0))
    torch.testing.assert_close(cov, torch.cov(x.T), rtol=1e-9, atol=1e-9)
    want = frechet(statistics(x), other)
    assert frechet(found, other) == pytest.approx(want, rel=1e-6)
    assert frechet(other, found) == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("cuts", [(3, 8), (10, 200), (150, 160)])
def test_merged_parts_are_the_whole(cuts):
    x = draws(300, 12, 3)
    parts = [moments(part, 7) for part in x.tensor_split(cuts)]
    for other in parts[1:]:
        parts[0].merge(other)
    torch.testing.assert_close(parts[0].result().cov, torch.cov(x.T), rtol=1e-10, atol=1e-10)
    assert parts[0].n == 300


def test_few_samples_against_a_covariance_equal_the_direct_route():
    """n <= d on one side, on both, and by torch-fidelity's eigenvalues."""
    fidelity = pytest.importorskip("torch_fidelity.metric_fid")
    a, b = draws(15, 40, 1), draws(300, 40, 2)
    stats = [fidelity.fid_features_to_statistics(v) for v in (a, b)]
    want = fidelity.fid_statistics_to_metric(*stats, verbose=False)[fidelity.KEY_METRIC_FID]
    assert frechet(moments(a, 4).result(), moments(b, 50).result()) == pytest.approx(want, rel=1e-6)
    assert frechet_distance(a, b) == pytest.approx(want, rel=1e-6)
    stats = [fidelity.fid_features_to_statistics(v) for v in (b, draws(200, 40, 5))]
    want = fidelity.fid_statistics_to_metric(*stats, verbose=False)[fidelity.KEY_METRIC_FID]
    assert frechet(moments(b, 50).result(), moments(draws(200, 40, 5), 9).result()) == pytest.approx(want, rel=1e-9)


def test_memory_does_not_grow_with_n():
    """What is held after 200 batches is what was held after 2: sums, at most d waiting rows, and the kept features."""

    def held(batches):
        seen = feature_pass((torch.randn(64, 16) for _ in range(batches)), PLAIN, keep=100)
        waiting = sum(map(len, seen.moments.waiting))
        assert waiting <= 16
        return len(seen.features), seen.moments.folded.scatter.shape

    assert held(2) == held(200) == (100, (16, 16))


def test_class_scores_equal_torch_fidelitys():
    fidelity = pytest.importorskip("torch_fidelity.metric_isc")
    logits = 3 * torch.randn(230, 10, generator=torch.Generator().manual_seed(0))
    want = fidelity.isc_features_to_metric(logits, splits=4, shuffle=False)
    split = torch.arange(230) * 4 // 230
    # torch-fidelity's split i holds the rows from i n // 4 on
    split = torch.bucketize(torch.arange(230), torch.tensor([(i * 230) // 4 for i in range(1, 4)]), right=True)
    parts = [ScoreSums(4), ScoreSums(4)]
    for part, rows in zip(parts, (slice(0, 90), slice(90, 230))):
        part.update(logits[rows], split[rows])
    parts[0].merge(parts[1])
    scores = parts[0].scores()
    assert float(scores.mean()) == pytest.approx(want[fidelity.KEY_METRIC_ISC_MEAN], rel=1e-6)
    assert float(scores.std(correction=0)) == pytest.approx(want[fidelity.KEY_METRIC_ISC_STD], rel=1e-6)


def test_class_scores_in_closed_form():
    """Certain of one of ten classes: 10; of nothing: 1."""
    certain, unsure = ScoreSums(1), ScoreSums(1)
    certain.update(1e4 * torch.eye(10), torch.zeros(10, dtype=torch.long))
    unsure.update(torch.zeros(10, 10), torch.zeros(10, dtype=torch.long))
    assert float(certain.scores()) == pytest.approx(10)
    assert float(unsure.scores()) == pytest.approx(1)


SCORED = Space("l", "l", "l", lambda raw: raw.flatten(1), logits=lambda features: features, watch=lambda: Tallest())


class Tallest:
    """A guard that refuses what is larger than all."""

    def __init__(self):
        self.top = 0.0

    def update(self, images):
        self.top = max(self.top, float(images.max()))
        if self.top > 1e6:
            raise ValueError("too large")

    def merge(self, other):
        self.top = max(self.top, other.top)

    def finish(self):
        assert self.top > 0


def _rank(rank, world, folder, shared):
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet{shared}", rank=rank, world_size=world)
    x = draws(90, 6, 4)
    mine = x if shared else x[:50] if rank == 0 else x[50:]
    split = torch.arange(len(x)) % 3 if shared else torch.zeros(len(mine), dtype=torch.long)
    seen = feature_pass(mine.split(20), SCORED, keep=70, split_of=split, shared=shared)
    cov, score = seen.moments.result().cov, seen.scores.scores()
    np.savez(f"{folder}/{rank}.npz", cov=cov, kept=seen.features, score=score, top=seen.watch.top)
    with pytest.raises(ValueError, match="too large"):
        feature_pass([mine * (1e7 if rank == 1 or shared else 1)], SCORED, shared=shared)
    dist.destroy_process_group()


@pytest.mark.parametrize("shared", [True, False])
def test_ranks_merge_to_the_whole_and_fail_together(tmp_path, shared):
    import multiprocessing

    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_rank, args=(rank, 2, tmp_path, shared)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
        assert process.exitcode == 0
    x = draws(90, 6, 4)
    whole = feature_pass([x], SCORED, split_of=torch.arange(90) % 3 if shared else torch.zeros(90, dtype=torch.long))
    for rank in range(2):
        found = np.load(tmp_path / f"{rank}.npz")
        np.testing.assert_allclose(found["cov"], np.cov(x.numpy(), rowvar=False), rtol=1e-10)
        np.testing.assert_allclose(found["score"], whole.scores.scores().numpy(), rtol=1e-10)
        assert found["top"] == float(x.max())
        if shared:  # each rank's own rows are numbered from 0, so which are the first 70 is a matter of rank
            np.testing.assert_array_equal(found["kept"], x[:70].float().numpy())
        assert len(found["kept"]) == 70


def grey(n, channels=3, top=255.0):
    return torch.rand(n, channels, 8, 8, generator=torch.Generator().manual_seed(0)) * top


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (grey(70, top=1.0), r"lie within \[0, 1\]"),
        (grey(3, top=1.0), r"lie within \[0, 1\]"),
        (grey(5) - 128, "expected grey levels 0 to 255"),
        (grey(5) * 2, "expected grey levels 0 to 255"),
        (grey(5, channels=1), r"expected \(n, 3, height, width\)"),
        (torch.cat([grey(3), grey(1) * torch.nan]), "not all finite: first at row 3"),
        (torch.cat([grey(3), grey(1) * torch.inf]), "not all finite"),
        (grey(1), "at least 2"),
        (grey(5)[0], r"expected \(n, 3, height, width\)"),
    ],
)
def test_images_that_inception_would_take_silently_are_refused(images, message):
    guarded = Space("g", "g", "g", lambda raw: raw.flatten(1), watch=ImageCheck)
    with pytest.raises(ValueError, match=message):
        feature_pass([images], guarded)


def test_dark_images_among_others_are_let_through():
    images = torch.cat([grey(5, top=1.0), grey(5)])
    assert feature_pass(images.split(5), Space("g", "g", "g", lambda r: r.flatten(1), watch=ImageCheck)).moments.n == 10


def test_images_become_grey_levels_by_what_their_data_set_declares():
    raw = torch.randint(0, 17, (4, 1, 8, 8)).float()
    shown = to_grey(raw, 17, 3)
    assert shown.shape == (4, 3, 8, 8)
    torch.testing.assert_close(shown[:, 2:], raw * 255 / 16)
    torch.testing.assert_close(to_grey(grey(2), 256, 3), grey(2))
    for bad, levels in ((raw, None), (grey(2, channels=4), 256), (torch.zeros(3, 2), None)):
        with pytest.raises(NotMeasurable):
            to_grey(bad, levels, 3)


@pytest.mark.parametrize("chunks", [[], [torch.zeros(1, 4)]])
def test_fewer_than_two_examples_are_refused(chunks):
    with pytest.raises(ValueError, match="at least 2"):
        feature_pass(chunks, PLAIN)


def test_features_that_are_not_finite_never_reach_a_distance():
    with pytest.raises(ValueError, match="not all finite"):
        feature_pass([torch.full((4, 2), torch.nan)], PLAIN)
