"""How often a picture shows what was asked for, while a branch of the emoji world trains.

The scenes are among those that no training sees, and the judge is the world's evaluator, which
shares nothing with what it judges. `bdm evaluate world` measures the same over more scenes; these
are drawn again and again from the same seeds, so that the curve moves with the branch alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.evaluation.drawing import draw, prepared
from bridge_diffusion.evaluation.evaluator import LoadedEvaluator, load_evaluator
from bridge_diffusion.evaluation.plan import (
    BRIDGE,
    Case,
    Group,
    WorldOptions,
    case_seed,
    drawing_order,
    group_of,
    scored_single,
)
from bridge_diffusion.evaluation.retrieval import ranks, top_k
from bridge_diffusion.worlds.emoji.concepts import Concept, all_concepts, small_world


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldProbe:
    """Held-out scenes with their prompts, and who judges the pictures."""

    cases: tuple[Case, ...]
    """What is drawn: as many native as shared concepts; a group that is through begins anew."""
    options: WorldOptions
    """How it is drawn."""
    evaluator: LoadedEvaluator
    """The judge, on the CPU."""

    @classmethod
    def of_data(
        cls, places: Sequence[str], pictures: int, *, steps: int, guidance: float
    ) -> "WorldProbe":
        """A probe for data such as "emoji:zh:all", or several of one language (`open_dataset`).

        BridgeError if some is no emoji scenes, or of another language than the first.
        """
        changes: set[str] = set()
        languages = []
        for data in places:
            world, _, words = data.partition(":")
            if world != "emoji":
                raise BridgeError(
                    f"--probe scores scenes of the emoji world (emoji:LANGUAGE), not {data}; "
                    "for other data look at the samples"
                )
            language, *more = words.split(":")
            languages.append(language)
            changes.update(more)
        if len({*languages}) != 1:
            raise BridgeError(
                f"--probe scores scenes of one language, and --data has {', '.join(languages)}; "
                "leave it out"
            )
        spoken = "en" if "english" in changes else language
        options = WorldOptions(language=language, steps=steps, guidance=guidance)
        concepts = drawing_order(
            all_concepts() if "all" in changes else small_world(language), options
        )
        members: dict[Group, list[Concept]] = {}
        for concept in concepts:
            group = group_of(concept, language)
            assert group is not None
            members.setdefault(group, []).append(concept)
        groups = sorted(members)  # native, then shared
        cases = []
        for place in range(pictures):
            turn, which = divmod(place, len(groups))
            group = groups[which]
            index, member = divmod(turn, len(members[group]))
            concept = members[group][member]
            scene = scored_single(concept, index)
            cases.append(
                Case(
                    condition="bridge",
                    route=BRIDGE,
                    group=group,
                    scene=scene,
                    prompt=scene.caption(spoken),
                    index=index,
                    seed=case_seed(options, concept, index),
                )
            )
        return cls(cases=tuple(cases), options=options, evaluator=load_evaluator())

    def scores(self, pipe: Any, bridge: Bridge) -> dict[str, float]:
        """Shares 0..1 of pictures whose concept is found first among all of the evaluator's.

        "probe/native_top1" and "probe/shared_top1". `bridge` is attached for the time of the call.
        """
        pictures = []
        bridge.attach(pipe)
        try:
            with prepared(pipe, bridge):
                for first in range(0, len(self.cases), self.options.batch_size):
                    some = self.cases[first : first + self.options.batch_size]
                    inputs = bridge.prompt([case.prompt for case in some])
                    pictures += draw(pipe, inputs, some, self.options)
        finally:
            bridge.detach()
        model = self.evaluator.model
        right = torch.tensor([model.row[case.concept.codepoints] for case in self.cases])
        found = ranks(model.scores(pictures), right)
        shares = {}
        for group in ("native", "shared"):
            inside = torch.tensor([case.group == group for case in self.cases])
            if inside.any():
                shares[f"probe/{group}_top1"] = top_k(found[inside], 1).share
        return shares
