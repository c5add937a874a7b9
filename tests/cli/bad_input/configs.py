"""Mistakes in config files: what they hold, and how."""

from bad_input.words import FINE

TEXTS = {
    "scalar": "hello\n",
    "number": "5\n",
    "list": "- a\n- b\n",
    "empty": "",
    "comment": "# nothing yet\n",
    "null": "null\n",
    "twice": "model:\n  init_args:\n    alpha: 0.5\n    beta: 0.6\n    alpha: 0.7\n",
    "twice_above": "trainer: {max_steps: 3}\nseed_everything: 1\ntrainer: {max_steps: 4}\n",
    "twice_in_a_list": "trainer:\n  callbacks:\n  - class_path: EarlyStopping\n    class_path: Timer\n",
    "no_model": "model: null\n",
    "no_data": "data: null\n",
    "circle": "model: &a\n  init_args: *a\n",
    "list_as_key": "? [a, b]\n: 3\n",
    "number_as_key": "1: 3\n",
    "tab": "model:\n\talpha: 3\n",
    "documents": "seed_everything: 1\n---\nseed_everything: 2\n",
    "code": "model: !!python/object/apply:os.system ['touch pwned']\n",
    "broken": "model: [\n",
    "typo": "model: {init_args: {fake_stepz: 3}}\n",
    "seeds": "data: {init_args: {predict_seeds: 5}}\n",
    "run_folder": "trainer: {default_root_dir: 5}\n",
    "teacher": "model: {init_args: {teacher_ckpt: 7}}\n",
    "switch": "data: {init_args: {labels: maybe}}\n",
    "text_for_a_number": "model: {init_args: {alpha: much}}\n",
    "list_for_a_number": "model: {init_args: {alpha: [0.9]}}\n",
    "mapping_for_a_number": "trainer: {max_steps: {a: 3}}\n",
    "number_for_a_list": "model: {init_args: {ema: 0.9}}\n",
    "number_for_a_class": "model: {init_args: {network: 3}}\n",
    "list_for_a_class": "model: {init_args: {network: [3]}}\n",
    "trainer": "trainer: 3\n",
    "group": "features: RawFeatures\ngrid: [3]\n",
    "model": "model: 3\n",
    "data_list": "data: [3]\n",
    "class_without_a_name": "model: {init_args: {network: {class_path: null}}}\n",
    "unknown_group": "modle: {alpha: 3}\n",
    "options_of_old": "fid: {features: RawFeatures}\n",
    "deep": f"model: {'[' * 3000}{']' * 3000}\n",
    "no": "data: {init_args: {eval_labels: no}}\n",
}
FILES = {f"{name}.yaml": text for name, text in TEXTS.items()}

NAMES = "options by their names"


# What is wrong with the file itself; what is wrong with a value is told by the option's name.
TOLD_BY_FILE = (
    *("scalar", "number", "list", "empty", "comment", "null", "twice", "twice_above", "twice_in_a_list", "circle"),
    *(
        "list_as_key",
        "number_as_key",
        "tab",
        "documents",
        "code",
        "broken",
        "trainer",
        "group",
        "no_model",
        "no_data",
        "model",
        "data_list",
        "deep",
    ),
)


def with_file(name, *words):
    told = [f"{name}.yaml"] if name in TOLD_BY_FILE else []
    return (*FINE, f"--config={name}.yaml"), [*told, *words]


CASES = {
    "a config that is one word": with_file("scalar", NAMES, "one value"),
    "a config that is one number": with_file("number", NAMES, "one value"),
    "a config that is a list": with_file("list", NAMES, "a list"),
    "a config that is empty": with_file("empty", NAMES, "nothing"),
    "a config of a comment": with_file("comment", NAMES, "nothing"),
    "a config that is null": with_file("null", NAMES, "one value"),
    "an option twice": with_file("twice", "alpha is given twice, in lines 3 and 5"),
    "a group twice": with_file("twice_above", "trainer is given twice, in lines 1 and 3"),
    "an option twice within a list": with_file("twice_in_a_list", "class_path is given twice, in lines 3 and 4"),
    "a config that holds itself": with_file("circle", "line 1", "holds itself"),
    "a list for an option's name": with_file("list_as_key", "no valid YAML"),
    "a number for an option's name": with_file("number_as_key", "name of an option in line 1, got 1"),
    "a tab": with_file("tab", "no valid YAML", "line 2"),
    "two documents": with_file("documents", "no valid YAML", "line 2"),
    "code in a config": with_file("code", "no valid YAML"),
    "broken YAML": (("fit", "--config", "broken.yaml"), ["broken.yaml", "no valid YAML"]),
    "a file that is no text": (("fit", "-c", "data.yaml"), ["data.yaml", "no valid YAML"]),
    "no model": with_file("no_model", "model's options by their names in line 1"),
    "no data": with_file("no_data", "data's options by their names in line 1"),
    "no model, as a word": ((*FINE, "--model=null"), ["required", "model"]),
    "no network": (
        (*FINE, "--model.network=null", "--model.teacher_ckpt=null", "--model.teacher_ema=null"),
        ["network is left out, and no teacher_ckpt describes one"],
    ),
    "no network that its file describes": (
        (*FINE, "--model.network=null", "--model.teacher_ckpt=foreign.pt"),
        ["foreign.pt", "network is left out, so teacher_ckpt must describe it"],
    ),
    "no source": ((*FINE, "--data.source=null"), ["required", "source"]),
    "no trainer": ((*FINE, "--trainer=null"), ["trainer", "null"]),
    "no group of a callback": ((*FINE, "--grid=null"), ["grid", "null"]),
    "a number for seeds": with_file("seeds", "predict_seeds: expected str, got 5; put it in quotes"),
    "a number for a run folder": with_file("run_folder", "default_root_dir: expected str, got int; put it in quotes"),
    "a number for a teacher": with_file("teacher", "teacher_ckpt", "expected str, got 7; put it in quotes"),
    "a word for a switch": with_file("switch", "labels: expected bool, got maybe"),
    "a word for a number": with_file("text_for_a_number", "alpha: expected float, got much"),
    "a list for a number": with_file("list_for_a_number", "alpha: expected float"),
    "a mapping for a number": with_file("mapping_for_a_number", "max_steps: expected int"),
    "a number for a list": with_file("number_for_a_list", "ema: expected list, got 0.9"),
    "a number for a network": with_file("number_for_a_class", "network", "3"),
    "a list for a network": with_file("list_for_a_class", "network"),
    "a number for a trainer": with_file("trainer", "trainer's options by their names in line 1"),
    "a list for callbacks of ours": with_file("group", "grid's options by their names in line 2"),
    "a number for a model": with_file("model", "model's options"),
    "a list for data": with_file("data_list", "data's options"),
    "a class without a name": with_file("class_without_a_name", "network"),
    "an unknown group in a file": with_file("unknown_group", "modle"),
    "options that an earlier version had": with_file("options_of_old", "'fid.features'", "--features, --metrics"),
    "unknown key in a file": with_file("typo", "fake_stepz"),
    "a config without a bottom": with_file("deep", "no valid YAML", "recursion"),
    "a word that YAML takes for a switch": with_file(
        "no", "eval_labels: expected one of 'balanced', 'sampled', got False"
    ),
    "a config that cannot be read": (("fit", "-c", "/proc/self/mem"), ["/proc/self/mem", "cannot be read"]),
    "null where a class would be, deep down": (
        (*FINE, "--model.path.times=null"),
        ["path: times: no class None is known; where an option may be none, that is null"],
    ),
    "null where a list would be, deep down": (
        (*FINE, "--model.path=FlowMatchingPath", "--model.path.levels=null"),
        ["path: levels: expected list, got None; where an option may be none, that is null", "in a config"],
    ),
    "None for a class": (
        (*FINE, "--model.gan=None"),
        ["gan: no class None is known; where an option may be none, that is null"],
    ),
    "None for a number": (
        (*FINE, "--trainer.limit_val_batches=None"),
        ["limit_val_batches: expected int or float, got None; where an option may be none, that is null"],
    ),
    "a value without an end": ((*FINE, f"--model.path={'x' * 10000}"), ["path: no class xxx", "xxx..."]),
    "an option without an end": ((*FINE, f"--{'x' * 10000}=1"), ["unrecognized", "xxx..."]),
    "a folder for a config": ((*FINE, "--config=."), ["config", "not a file"]),
    "a URL for a config": ((*FINE, "--config=http://localhost:1/x.yaml"), ["config", "http://localhost:1/x.yaml"]),
    "no name after --config": (("fit", "--config"), ["--config", "expected one argument"]),
    "an empty name after --config": (("fit", "--config="), ["config"]),
    "missing config": (("fit", "--config", "gone.yaml"), ["gone.yaml"]),
    "a missing file of a model": ((*FINE, "--model=gone.yaml"), ["gone"]),
}
