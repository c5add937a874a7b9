"""Mistakes in the user's own code, and in what is built from a config: networks, optimizers, schedules, callbacks."""

from bad_input.words import DISTIL, FINE, PLAN, TEACHER

FILES = {
    "lacks.py": "import no_such_package\n",
    "breaks.py": "limit = 1 / 0\n",
    "syntax.py": "def (:\n",
    "values.py": "Thing = 5\nclass Plain: pass\n",
    "networks.py": (
        "from realuid_lightning.networks import MLP\n"
        "class Boom(MLP):\n"
        "    def __init__(self, shape: list[int], width: int = 3) -> None:\n"
        "        raise RuntimeError('no luck')\n"
        "class Misspelt(MLP):\n"
        "    def __init__(self, shape: list[int], width: int = 3) -> None:\n"
        "        super().__init__(shap=shape)\n"
    ),
    "listeners.py": (
        "from lightning import Callback\n"
        "class Boom(Callback):\n"
        "    def __init__(self) -> None:\n"
        "        raise KeyError('no luck')\n"
        "class Needy(Callback):\n"
        "    def __init__(self, number: int = 3) -> None:\n"
        "        import no_such_package\n"
    ),
    "halves.py": (
        "from realuid_lightning.objectives import Objective\n"
        "class Half(Objective):\n"
        "    def fake(self, game): return game.x1.mean()\n"
    ),
    "abstract.yaml": "model: {path: {class_path: FlowMatchingPath, init_args: {schedule: {class_path: Schedule}}}}\n",
    "nameless.yaml": "model: {objective: {init_args: {rho: 1.0}}}\n",
}

SHAPE = "--model.network.shape=[1,8,8]"


def network(name, *words):
    return (*FINE, f"--model.network={name}"), [*words]


CASES = {
    "a module that lacks an import": network("lacks.Mine", "lacks.Mine", "no_such_package", "lacks.py, line 1"),
    "a module that breaks": network("breaks.Mine", "division by zero", "breaks.py, line 1"),
    "a module that is no Python": network("syntax.Mine", "invalid syntax", "syntax.py, line 1"),
    "a module that is not there": network("nowhere.Mine", "nowhere.Mine", "No module named 'nowhere'"),
    "a class that is not there": network("values.Mine", "values.Mine", "no attribute 'Mine'"),
    "a class of ours that is not there": network("realuid_lightning.networks.Mine", "no attribute 'Mine'"),
    "a number for a class": network("values.Thing", "values.Thing"),
    "a class of another kind": network("values.Plain", "values.Plain", "subclass of Module"),
    "a network that can not be built": (
        (*DISTIL, "--model.network=networks.Boom", SHAPE),
        ["Boom: RuntimeError: no luck (networks.py, line 4)"],
    ),
    "a plan of a network that can not be built": (
        ("plan", *DISTIL[1:], "--model.network=networks.Boom", SHAPE),
        ["Boom: RuntimeError: no luck (networks.py, line 4)"],
    ),
    "a network that misspells": (
        (*DISTIL, "--model.network=networks.Misspelt", SHAPE),
        ["Misspelt: TypeError", "'shap'", "networks.py, line 7"],
    ),
    "a callback that can not be built": (
        (*FINE, "--trainer.callbacks=listeners.Boom"),
        ["Boom: KeyError: 'no luck' (listeners.py, line 4)"],
    ),
    "a callback that lacks an import": (
        (*FINE, "--trainer.callbacks=listeners.Needy"),
        ["Needy: No module named 'no_such_package' (listeners.py, line 7)"],
    ),
    "a network of more weights than fit": ((*DISTIL, "--model.network.width=1000000000"), ["MLP: ", "memory"]),
    "a network of no width": ((*DISTIL, "--model.network.width=0"), ["width must be at least 2, got 0"]),
    "a network of negative depth": ((*FINE, "--model.network.depth=-5"), ["depth must be positive, got -5"]),
    "a network of no shape": ((*FINE, "--model.network.shape=[]"), ["shape must hold positive integers", "[]"]),
    "a network of a word for a shape": ((*FINE, "--model.network.shape=square"), ["shape: expected", "square"]),
    "a dropout above 1": ((*FINE, "--model.network.dropout=2"), ["dropout must be in [0, 1), got 2"]),
    "a dropout that is no number": ((*FINE, "--model.network.dropout=.nan"), ["MLP: dropout must be", "nan"]),
    "a negative rate": (
        (*FINE, "--model.generator_optimizer.lr=-1"),
        ["RealUIDModule: generator_optimizer: Invalid learning rate: -1"],
    ),
    "a rate that is no number": ((*FINE, "--model.fake_optimizer.lr=.nan"), ["fake_optimizer: ", "nan"]),
    "a rate without bounds": (
        (*FINE, "--model.fake_optimizer.lr=.inf"),
        ["fake_optimizer: lr must be finite, got inf"],
    ),
    "both rates": (
        (*FINE, "--model.fake_optimizer.lr=-1", "--model.generator_optimizer.lr=-2"),
        ["fake_optimizer: Invalid learning rate: -1", "generator_optimizer: Invalid learning rate: -2"],
    ),
    "a negative rate of a teacher": ((*TEACHER, "--model.optimizer.lr=-1"), ["TeacherModule: optimizer: ", "-1"]),
    "a plan at a negative rate": ((*PLAN, "--model.fake_optimizer.lr=-1"), ["fake_optimizer: ", "-1"]),
    "three betas": (
        (*FINE, "--model.generator_optimizer=Adam", "--model.generator_optimizer.betas=[0.1,0.2,0.3]"),
        ["generator_optimizer", "betas: expected tuple with 2 elements, got [0.1, 0.2, 0.3]"],
    ),
    "a beta above 1": (
        (*FINE, "--model.fake_optimizer=Adam", "--model.fake_optimizer.betas=[0.1,2]"),
        ["fake_optimizer: ", "beta", "2.0"],
    ),
    "a negative epsilon": (
        (*FINE, "--model.fake_optimizer=Adam", "--model.fake_optimizer.eps=-1"),
        ["fake_optimizer: ", "epsilon", "-1"],
    ),
    "options of an optimizer that do not go together": (
        (*FINE, "--model.fake_optimizer=torch.optim.SGD", "--model.fake_optimizer.nesterov=true"),
        ["fake_optimizer: Nesterov"],
    ),
    "an optimizer that evaluates by itself": (
        (*FINE, "--model.fake_optimizer=torch.optim.LBFGS"),
        ["fake_optimizer: LBFGS evaluates losses by itself"],
    ),
    "a class that lacks methods": (
        (*FINE, "--model.objective=halves.Half"),
        ["objective: an abstract class is named: name one that has all methods"],
    ),
    "an abstract class of ours": (
        (*FINE, "--config", "abstract.yaml"),
        ["schedule: Schedule is abstract: name one that has all methods of its kind, by class_path: NAME"],
    ),
    "an option of a class that is not named": (
        (*FINE, "--model.objective.rho=0.5"),
        ["objective: realuid_lightning.objectives.Objective is abstract: name one that has all", "=NAME"],
    ),
    "options of a class that is not named": (
        (*FINE, "--config", "nameless.yaml"),
        ["objective: expected class_path: NAME, of the kind Objective, and init_args"],
    ),
    "an unknown optimizer": ((*FINE, "--model.fake_optimizer=Adamm"), ["fake_optimizer: no class Adamm is known"]),
    "an unknown schedule": ((*FINE, "--model.fake_schedule=Cooldown"), ["fake_schedule: no class Cooldown is known"]),
    "a schedule without its steps": (
        (*FINE, "--model.fake_schedule=torch.optim.lr_scheduler.StepLR"),
        ["fake_schedule: ", "required", "step_size"],
    ),
    "a schedule of negative steps": (
        (*FINE, "--model.fake_schedule.steps=-1"),
        ["fake_schedule: LinearDecay: need 0 <= warmup < steps, got warmup 20 and steps -1"],
    ),
}

# Every number of ours, where it is not finite.
COEFFICIENTS = ("alpha", "beta", "gamma")
NUMBERS = (*COEFFICIENTS, "clip", "teacher_ema")
CASES |= {
    f"{name} of {value}": (
        (*FINE, f"--model.{name}={value}"),
        [f"{'RealUID' if name in COEFFICIENTS else 'RealUIDModule'}: {name} must be finite, got {value[1:]}"],
    )
    for name in NUMBERS
    for value in (".inf", ".nan")
}
CASES |= {"an average of inf": ((*FINE, "--model.ema=[0.9,.inf]"), ["RealUIDModule: ema must be finite", "inf"])}
