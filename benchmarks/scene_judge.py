"""How well the judge of scenes sees held-out real images: the table of docs/scenes.md.

python -m benchmarks.scene_judge
python -m benchmarks.scene_judge 'scenes(source="mnist", size=32)'
"""

from __future__ import annotations

import sys
import time

from fairlead.data.hub import load_data
from fairlead.measure.agreement import AttributeEvaluator
from fairlead.measure.attributes import cached_attribute_judge


def main(spec: str = "scenes") -> None:
    started = time.process_time()
    train, test = load_data(spec), load_data(spec, "test")
    loaded = time.process_time()
    judge = cached_attribute_judge(train)
    trained = time.process_time()
    score = AttributeEvaluator(judge, test).score(test.images, test.attributes)
    print(f"{len(train):,} train and {len(test):,} test images: {loaded - started:.1f} s of processor time")
    print(f"{judge.name}: {trained - loaded:.0f} s")
    print(score)


if __name__ == "__main__":
    main(*sys.argv[1:])
