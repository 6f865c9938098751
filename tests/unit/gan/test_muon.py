"""The optimiser of restorers: it moves kernels in all directions alike, and what was stored goes on."""

from __future__ import annotations

import copy

import torch

from medgan.gan.muon import Muon, orthogonal


def lopsided():
    """A gradient (O, I, 3, 3) with one direction a thousand times as strong as the others."""
    torch.manual_seed(0)
    return torch.randn(16, 12, 3, 3) + 1000 * torch.outer(torch.randn(16), torch.randn(108)).reshape(16, 12, 3, 3)


def test_every_direction_of_a_kernel_moves_about_alike():
    for shape in ((16, 108), (108, 16)):
        torch.manual_seed(1)
        strengths = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
        assert strengths.min() > 0.5
        assert strengths.max() < 1.3


def test_a_step_has_the_size_of_adams_whatever_the_gradient():
    for scale in (1e-4, 1.0, 1e4):
        kernel = torch.nn.Parameter(torch.zeros(16, 12, 3, 3))
        kernel.grad = scale * torch.randn(16, 12, 3, 3, generator=torch.Generator().manual_seed(2))
        Muon([kernel], lr=0.5).step()
        size = kernel.detach().square().mean().sqrt()
        assert 0.5 * 0.2 * 0.7 < size < 0.5 * 0.2 * 1.3


def test_a_direction_that_the_gradient_hides_moves_too():
    kernel = torch.nn.Parameter(torch.zeros(16, 12, 3, 3))
    kernel.grad = lopsided()
    Muon([kernel], lr=1.0).step()
    hidden, moved = (torch.linalg.svdvals(one.flatten(1)) for one in (kernel.grad, kernel.detach()))
    assert hidden[1] < 0.001 * hidden[0]
    assert moved[1] > 0.05 * moved[0]


def test_biases_follow_adam():
    ours, theirs = (torch.nn.Parameter(torch.zeros(7)) for _ in range(2))
    muon, adam = Muon([ours], lr=0.1), torch.optim.Adam([theirs], lr=0.1, betas=(0.9, 0.99))
    for seed in range(5):
        gradient = torch.randn(7, generator=torch.Generator().manual_seed(seed))
        ours.grad, theirs.grad = gradient, gradient.clone()
        muon.step()
        adam.step()
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_stored_state_goes_on_as_if_nothing_had_happened():
    def move(parameters, optimiser, seed):
        for one in parameters:
            one.grad = torch.randn(one.shape, generator=torch.Generator().manual_seed(seed))
        optimiser.step()

    ours = [torch.nn.Parameter(torch.ones(16, 12, 3, 3)), torch.nn.Parameter(torch.ones(5))]
    first = Muon(ours, lr=0.1)
    move(ours, first, 0)
    copies = [torch.nn.Parameter(one.detach().clone()) for one in ours]
    second = Muon(copies, lr=0.1)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    move(ours, first, 1)
    move(copies, second, 1)
    assert all(torch.equal(a, b) for a, b in zip(ours, copies, strict=True))
