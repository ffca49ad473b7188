"""outboard-remote: its command line, and its commands to a VMM that has no guest yet."""

import json
import re
import select
import shutil
import subprocess

import pytest


@pytest.fixture(scope="session")
def remote(build):
    def run(*arguments, **keywords):
        return subprocess.run(
            [build / "src" / "outboard-remote", *arguments],
            **{"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 30,
               "check": False, **keywords},
        )

    return run


@pytest.fixture
def vmm(build, tmp_path):
    """The socket of a running outboard; its events say when it is there."""
    path = tmp_path / "api.sock"
    process = subprocess.Popen(
        [build / "src" / "outboard", "--api-socket", path, "--event-monitor", "fd=1"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    event = json.loads(process.stdout.readline())
    assert (event["source"], event["event"]) == ("vmm", "starting")
    poll = select.poll()
    while not path.exists():  # within microseconds
        assert poll.poll(1) == [] and process.poll() is None
    yield path
    process.kill()
    process.communicate()


def does(result):
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def refuses(result, line, status=1):
    assert (result.returncode, result.stderr, result.stdout) == (
        status, f"outboard-remote: {line}\n", "")


@pytest.mark.parametrize(
    "arguments,line",
    [
        ("", "expected a command; --help lists them"),
        ("--api-socket x", "expected a command; --help lists them"),
        ("--api-socket", "--api-socket: expected PATH, got nothing"),
        ("boot", "boot: expected --api-socket PATH"),
        ("boot --api-socket", "--api-socket: expected PATH, got nothing"),
        ("--api-socket=x boot y", 'boot: expected no further argument, got "y"'),
        ("--api-socket=x add-disk", "add-disk: expected OPTION, got nothing"),
        ("--api-socket=x remove-device", "remove-device: expected ID, got nothing"),
        ("--api-socket=x add-disk pat=y",
         "--disk pat=y: pat: unknown field; did you mean path=?"),
        ("--api-socket=x create y z", 'create: expected no further argument, got "z"'),
        ("--api-socket x resum", '"resum": unknown command; did you mean resume?'),
        ("--api-socket x zzzzzz", '"zzzzzz": unknown command; --help lists them'),
        ("--api-socket x snapshot y", "snapshot is not available in this version"),
        ("--fast boot", '"--fast": unknown option; --help lists them'),
        ("--print-completion fish", "--print-completion: expected bash or zsh"),
    ],
)
def test_usage(remote, arguments, line):
    refuses(remote(*arguments.split()), line, 2)


def test_without_a_server(remote, tmp_path):
    path = tmp_path / "none"
    refuses(remote("--api-socket", path, "ping"), f"cannot connect to {path}: no such socket")


def test_life(remote, vmm, tmp_path):
    call = lambda *words, **keywords: remote("--api-socket", vmm, *words, **keywords)
    assert "kvm" in json.loads(does(call("ping")))["features"]
    refuses(call("info"), "vm.info: no VM is created")
    config = {"payload": {"kernel": "/nonexistent"}, "memory": {"size": 64 << 20}}
    for how in ([], ["-"]):
        assert does(call("create", *how, stdin=None, input=json.dumps(config))) == ""
        info = json.loads(does(call("info")))
        assert info["state"] == "Created"
        assert info["config"]["payload"]["kernel"] == "/nonexistent"
        assert json.loads(does(call("counters"))) == {}
        assert does(call("delete")) == ""
    does(call("create", stdin=None, input=json.dumps(config)))
    does(call("add-disk", "path=/a,readonly=on,bw_size=1M,bw_refill_time=100"))
    does(call("add-user-device", 'socket="/a,b"'))
    with open("/dev/null", encoding="ascii") as null:  # not a tap, which only a boot would find
        does(call("add-net", f"fd=[{null.fileno()}],id=tap", pass_fds=[null.fileno()]))
    does(call("add-device", "01:00.0,id=gpu,iommu=on"))
    with open("/dev/null", encoding="ascii") as null:  # nor a device
        refuses(call("add-device", f"fd={null.fileno()}", pass_fds=[null.fileno()]),
                "--device: fd: expected --platform iommufd=on or iommufd_fd=N beside it: "
                "the descriptor of a device works with /dev/iommu only")
    now = json.loads(does(call("info")))["config"]
    assert now["devices"] == [
        {"path": "01:00.0", "iommu": True, "id": "gpu", "pci_segment": 0}]
    assert now["net"][0]["id"] == "tap"
    assert now["disks"][0]["readonly"] and now["user_devices"][0]["socket"] == "/a,b"
    assert now["disks"][0]["rate_limiter_config"] == {
        "bandwidth": {"size": 1 << 20, "refill_time": 100}}
    does(call("remove-device", "_disk0"))
    refuses(call("remove-device", "_disk0"), "_disk0: there is no such device")
    does(call("delete"))
    (tmp_path / "config").write_text(json.dumps(config))
    does(call("create", tmp_path / "config"))
    refuses(call("pause"), "vm.pause: the VM is not booted")
    result = call("boot")
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert does(call("shutdown-vmm")) == ""


def test_every_command_has_its_endpoint(remote, vmm):
    """Without a VM most are refused; none is unknown, or sent by the wrong method."""
    text = does(remote("--help")).partition("\nOptions:")[0]
    arguments = {"remove-device": ["x"]}
    options = {"add-disk": "path=/x", "add-net": "tap=x", "add-device": "path=/x",
               "add-fs": "tag=x,socket=/x",
               "add-generic-vhost-user": "socket=/x,virtio_id=26,queue_sizes=[1]",
               "add-user-device": "socket=/x", "add-vsock": "cid=3,socket=/x"}
    commands = re.findall(r"^  ([a-z][\w-]+) ", text, re.M)
    assert set(options) <= set(commands)
    for command in commands:
        words = [options[command]] if command in options else arguments.get(command, [])
        result = remote("--api-socket", vmm, command, *words)
        assert result.returncode in (0, 1), result.stderr
        assert "endpoint" not in result.stderr and "method" not in result.stderr, result.stderr


def test_bodies_that_cannot_be(remote, vmm, tmp_path):
    call = lambda *words, **keywords: remote("--api-socket", vmm, *words, **keywords)
    refuses(call("create", tmp_path / "x"), f"{tmp_path / 'x'}: No such file or directory")
    refuses(call("create", tmp_path), f"{tmp_path}: Is a directory")
    refuses(call("create", stdin=None, input=" " * (1 << 20) + " "),
            "standard input: expected at most 1048576 bytes")
    refuses(call("create", stdin=None, input='{"cpus":{"boot":1}}'),
            "cpus.boot: unknown key; did you mean boot_vcpus?")


def test_through_the_first_program(build, vmm):
    result = subprocess.run(
        [build / "src" / "outboard", "remote", "--api-socket", vmm, "ping"],
        capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 0 and json.loads(result.stdout)["pid"]


def test_version(remote, outboard):
    assert does(remote("--version")) == "outboard-remote " + outboard("-V").stdout.split()[1] + "\n"


COMPLETE = r"""
source "$1"
COMP_WORDS=("${@:2}") COMP_CWORD=$(($# - 2)) COMPREPLY=()
_outboard_remote
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    "words,candidates",
    [
        (["re"], ["remove-device", "resume", "reboot"]),
        (["--api-socket", "sock"], ["socket-file"]),
        (["--api-socket", "x", "shut"], ["shutdown", "shutdown-vmm"]),
        (["--api-socket", "x", "create", "so"], ["socket-file"]),
        (["--v"], ["--version"]),
    ],
)
def test_bash_completes(remote, tmp_path, words, candidates):
    (tmp_path / "script").write_text(does(remote("--print-completion", "bash")))
    (tmp_path / "socket-file").touch()
    result = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", tmp_path / "script", "outboard-remote", *words],
        cwd=tmp_path, capture_output=True, text=True, check=True, timeout=30)
    assert result.stderr == ""
    assert sorted(result.stdout.split()) == sorted(candidates)


def test_help_and_completion_have_the_same_commands(remote):
    listed = re.findall(
        r"^  ([a-z][\w-]+) ", does(remote("--help")).partition("\nOptions:")[0], re.M)
    offered = re.search(r"compgen -W '([^']*)'", does(remote("--print-completion", "bash")))[1]
    assert [word for word in offered.split() if not word.startswith("--")] == listed


def test_zsh_script_is_valid(remote, tmp_path):
    if not shutil.which("zsh"):
        pytest.skip("zsh is not installed")
    path = tmp_path / "_outboard-remote"
    path.write_text(does(remote("--print-completion", "zsh")))
    subprocess.run(["zsh", "-n", path], check=True, timeout=30)
