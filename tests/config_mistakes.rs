//! The messages about a configuration that is wrong, or unwise.

use pepita_supervisor::config::{self, Checked, ConfigErrors, Diagnostic, Level};
use proptest::prelude::*;
use rustix::fs::{CWD, Mode, mkfifoat};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

fn parse(text: &str) -> Result<Checked, ConfigErrors> {
    config::parse(text, Path::new("/etc/pepita/web.toml"))
}

fn mistakes(text: &str) -> Vec<Diagnostic> {
    parse(text).expect_err("has mistakes").mistakes().to_vec()
}

/// A group `web` with a VM `api`, a process that needs no images; lines of the group begin at line 5, lines of the VM
/// at line 8.
fn web(group: &str, vm: &str) -> String {
    let platform = "[platform.pepita]\nvmm = \"process\"";
    format!("{platform}\n[[group]]\nname = \"web\"\n{group}\n[[group.vm]]\nname = \"api\"\n{vm}\n")
}

/// Text, line and column, the end of the key's path, words of the message.
type Row = (String, (usize, usize), &'static str, &'static [&'static str]);

fn hold(table: &[Row]) {
    for (text, at, path, words) in table {
        let all = mistakes(text);
        let [mistake] = &all[..] else { panic!("one mistake in\n{text}\nbut {all:#?}") };
        assert_eq!((mistake.place.line, mistake.place.column), *at, "{mistake}");
        assert!(mistake.path.ends_with(path), "{path}: {mistake}");
        let shown = mistake.to_string();
        for word in *words {
            assert!(shown.contains(word), "{word:?} in\n{shown}");
        }
        if text.starts_with("[platform") && at.0 == 8 {
            assert!(mistake.path.starts_with("group \"web\" vm \"api\": "), "{shown}");
        }
        // The right form is shown, as a value or as a rule.
        assert!(path.is_empty() || mistake.help.is_some() || mistake.message.contains("expected"), "{shown}");
    }
}

fn group(lines: &str) -> String {
    web(lines, "")
}

fn vm(lines: &str) -> String {
    web("", lines)
}

/// As [`vm`], with a VM that is one.
fn guest(lines: &str) -> String {
    let images = "kernel_path = \"/k\"\nrootfs_path = \"/r\"";
    format!("[[group]]\nname = \"web\"\n[[group.vm]]\nname = \"api\"\n{images}\n\n{lines}\n")
}

#[test]
fn a_world_that_no_guest_can_have_is_told() {
    hold(&[
        (guest("user = \"a:b:c\""), (8, 8), "user", &["no user", "\"101:102\""]),
        (guest("user = 101"), (8, 8), "user", &["expected a user"]),
        (guest("workdir = \"data\""), (8, 11), "workdir", &["begins with '/'"]),
        (guest("hostname = \"a_b\""), (8, 12), "hostname", &["no host name", "\"cache-1\""]),
        (
            guest("network = \"bridge\""),
            (8, 11),
            "network",
            &["unknown network \"bridge\"", "\"none\", \"user\""],
        ),
        (
            guest("jail = \"strong\""),
            (8, 8),
            "jail",
            &["unknown jail \"strong\"", "\"full\", \"best-effort\""],
        ),
        (guest("ulimits = { files = 1 }"), (8, 21), "ulimits.files", &["no limit", "nofile"]),
        (guest("ulimits = { nofile = \"2:1\" }"), (8, 22), "ulimits.nofile", &["above the second"]),
        (guest("ulimits = { nofile = true }"), (8, 22), "ulimits.nofile", &["a whole number or a text"]),
        (guest("ulimits = [\"nofile\"]"), (8, 11), "ulimits", &["a table of limits"]),
        (guest("sysctls = { swap = 1 }"), (8, 20), "sysctls.swap", &["no setting of the kernel"]),
        (guest("sysctls = { \"vm.x\" = \"a\\nb\" }"), (8, 22), "sysctls.vm.x", &["one line"]),
        (guest("secrets = [\"key\"]"), (8, 12), "secrets[0]", &["\"NAME=FILE\""]),
        (guest("secrets = [\"../key=/k\"]"), (8, 12), "secrets[0]", &["no name of a secret"]),
        (guest("secrets = [\"a=/k\", \"a=/l\"]"), (8, 20), "secrets[1]", &["a second secret \"a\""]),
        (guest("secrets = { a = \"/k\" }"), (8, 11), "secrets", &["a list of"]),
    ]);
}

#[test]
fn what_only_a_vm_can_give_is_refused_for_a_plain_process() {
    for line in [
        "user = \"redis\"",
        "hostname = \"a\"",
        "secrets = [\"a=/k\"]",
        "sysctls = { \"vm.x\" = 1 }",
        "read_only = true",
        "privileged = true",
        "reach = [\"10.0.0.7:443\"]",
        "network = \"user\"",
        "jail = \"full\"",
    ] {
        let key = line.split(' ').next().expect("a key");
        let all = mistakes(&vm(line));
        let [mistake] = &all[..] else { panic!("{line}: {all:#?}") };
        assert!(mistake.path.ends_with(key) && mistake.message.contains("only a VM"), "{mistake}");
    }
    for line in [
        "workdir = \"/tmp\"",
        "env_file = \"a.env\"",
        "ulimits = { core = 0 }",
        "privileged = false",
        "reach = []",
        "network = \"none\"",
        "jail = \"none\"",
    ] {
        assert!(parse(&vm(line)).is_ok(), "{line}");
    }
}

#[test]
fn what_a_daemon_may_dial_is_checked_against_the_vms_of_the_file() {
    hold(&[
        (guest("reach = [\"db\"]"), (8, 10), "reach[0]", &["the port is missing", "such as [\"db:5432\""]),
        (guest("reach = [\"api:80\"]"), (8, 9), "reach", &["reaches itself at 127.0.0.1"]),
        (guest("reach = [\"apo:80\"]"), (8, 9), "reach", &["apo is no VM of this file", "did you mean api?"]),
        (guest("reach = [\"mail:25\"]"), (8, 9), "reach", &["no VM", "\"mail:PORT=ADDRESS:PORT\""]),
        (
            guest("reach = [\"a:1=10.0.0.7:1\", \"a:1=10.0.0.8:1\"]"),
            (8, 9),
            "reach",
            &["a:1 stands there twice"],
        ),
        (guest("reach = \"10.0.0.7:1\""), (8, 9), "reach", &["expected a list of places"]),
    ]);
    assert!(parse(&guest("reach = [\"10.0.0.7:443\", \"mail:25=[fd00::1]:25\"]")).is_ok());
}

#[test]
fn a_vm_has_one_root() {
    let both = "image = \"redis:7\"\nrootfs_path = \"/r\"";
    let qemu = |text: &str| format!("[[group]]\nname = \"g\"\n[[group.vm]]\nname = \"a\"\n{text}");
    hold(&[
        (qemu(both), (6, 15), "rootfs_path", &["exclude each other"]),
        (qemu("image = \"\""), (5, 9), "image", &["is no image", "redis:7"]),
        (qemu("image = \"a b\""), (5, 9), "image", &["is no image"]),
        (qemu("image = \"oci:\""), (5, 9), "image", &["the path is empty"]),
    ]);
}

#[test]
fn unknown_keys_are_told_with_the_key_that_was_meant() {
    hold(&[
        ("[supervisr]\n".into(), (1, 2), "supervisr", &["unknown key supervisr", "did you mean supervisor?"]),
        (vm("restart.polcy = \"always\""), (8, 9), "restart.polcy", &["unknown key", "did you mean policy?"]),
        (vm("policy = \"always\""), (8, 1), "policy", &["did you mean restart.policy?"]),
        (vm("\"a b\" = 1"), (8, 1), "\"a b\"", &["known here: name, command, env"]),
        ("[[vm]]\nname = \"a\"".into(), (1, 3), "vm", &["did you mean group.vm?"]),
        ("[defaults]\nvcpus = 1".into(), (2, 1), "defaults.vcpus", &["known here: restart, start"]),
    ]);
}

#[test]
fn keys_of_a_compose_file_are_told_with_what_stands_for_them_here() {
    hold(&[
        (vm("ports = [\"80:80\"]"), (8, 1), "ports", &["unknown key ports", "publish = "]),
        (vm("volumes = [\"a:/b\"]"), (8, 1), "volumes", &["[[group.vm.disk]]"]),
        (vm("environment = { A = \"b\" }"), (8, 1), "environment", &["env = "]),
        ("[services.db]\nimage = \"redis:7\"".into(), (1, 2), "services", &["[[group.vm]]"]),
    ]);
}

#[test]
fn a_disk_is_checked_like_every_other_key() {
    let qemu =
        |disks: &str| vm(&format!("vmm = \"qemu\"\nkernel_path = \"/k\"\nrootfs_path = \"/r\"\n{disks}"));
    let disk = |more: &str| qemu(&format!("disk = [{{ name = \"data\", mount = \"/data\", {more} }}]"));
    hold(&[
        (
            vm("disk = [{ name = \"data\", mount = \"/d\" }]"),
            (8, 8),
            "disk",
            &["no disks of its own", "vmm = "],
        ),
        (disk("siz = \"1G\""), (11, 43), "disk[0].siz", &["unknown key siz", "did you mean size?"]),
        (disk("size = \"1GB\""), (11, 50), "disk[0].size", &["is no size", "10GiB"]),
        (disk("size = \"1MiB\""), (11, 50), "disk[0].size", &["out of range"]),
        (
            qemu("disk = [{ name = \"a/b\", mount = \"/data\" }]"),
            (11, 18),
            "disk[0].name",
            &["no name of a disk"],
        ),
        (
            qemu("disk = [{ name = \"a\", mount = \"data\" }]"),
            (11, 31),
            "disk[0].mount",
            &["no absolute path"],
        ),
        (qemu("disk = [{ name = \"a\" }]"), (11, 9), "disk[0].mount", &["missing", "write mount"]),
        (qemu("disk = \"data\""), (11, 8), "disk", &["expected a list of tables", "[[group.vm.disk]]"]),
        (
            qemu("disk = [{ name = \"a\", mount = \"/x\" }, { name = \"b\", mount = \"/x/\" }]"),
            (11, 8),
            "disk",
            &["disk \"a\" and disk \"b\" are both mounted"],
        ),
        (
            qemu(
                "[[group.vm.disk]]\nname = \"a\"\nmount = \"/x\"\n[[group.vm]]\nname = \"b\"\nvmm = \"qemu\"\nkernel_path = \"/k\"\nrootfs_path = \"/r\"\n[[group.vm.disk]]\nname = \"a\"\nmount = \"/x\"",
            ),
            (19, 1),
            "disk",
            &["also a disk of VM \"api\""],
        ),
        (
            vm("share = [{ path = \"/srv\", mount = \"/d\" }]"),
            (8, 9),
            "share",
            &["no shares of its own", "vmm = "],
        ),
        (qemu("share = [{ path = \"/srv\" }]"), (11, 10), "share[0].mount", &["missing", "write mount"]),
        (
            qemu("share = [{ path = \"/srv\", mount = \"/x\", readonly = true }]"),
            (11, 41),
            "share[0].readonly",
            &["unknown key readonly", "did you mean read_only?"],
        ),
        (
            qemu("disk = [{ name = \"a\", mount = \"/x\" }]\nshare = [{ path = \"/srv\", mount = \"/x\" }]"),
            (12, 9),
            "share",
            &["disk \"a\" and share \"/srv\" are both mounted"],
        ),
    ]);
}

#[test]
fn wrong_types_are_told_with_the_right_one() {
    hold(&[
        (vm("memory_mb = \"much\""), (8, 13), "memory_mb", &["expected a whole number", "the text \"much\""]),
        (vm("memory_mb = \"512M\""), (8, 13), "memory_mb", &["write 512, without quotes"]),
        (vm("vcpus = 1.5"), (8, 9), "vcpus", &["a whole number from 1 to 288, found the number 1.5"]),
        (vm("autostart = \"yes\""), (8, 13), "autostart", &["expected true or false"]),
        (vm("command = \"/bin/x\""), (8, 11), "command", &["expected a list of texts", "such as [\"/usr"]),
        (vm("command = [\"a\", 1]"), (8, 17), "command[1]", &["expected a text, found the number 1"]),
        (vm("env = { PORT = 80 }"), (8, 16), "env.PORT", &["expected a text", "write it in quotes"]),
        (
            vm("restart = \"always\""),
            (8, 11),
            "restart",
            &["expected a table, found the text \"always\"", "its keys: restart.policy, "],
        ),
        ("[group]\nname = \"a\"".into(), (1, 1), "group", &["expected a list of tables", "write [[group]]"]),
        ("group = [1]".into(), (1, 10), "group[0]", &["expected a table, found the number 1"]),
    ]);
}

#[test]
fn wrong_words_and_durations_are_told_with_right_ones() {
    hold(&[
        (
            vm("restart.policy = \"allways\""),
            (8, 18),
            "restart.policy",
            &["unknown restart policy", "always\"?"],
        ),
        (group("strategy = \"one-for-one\""), (5, 12), "strategy", &["did you mean \"one_for_one\"?"]),
        (group("strategy = \"any\""), (5, 12), "strategy", &["use one of \"one_for_one\", \"one_for_all\""]),
        (vm("stop.signal = \"TREM\""), (8, 15), "stop.signal", &["unknown signal", "did you mean \"TERM\"?"]),
        (vm("stop.timeout = \"5 parsecs\""), (8, 16), "stop.timeout", &["not a duration", "\"5min\""]),
        (vm("stop.timeout = 30"), (8, 16), "stop.timeout", &["did you mean \"30s\"?"]),
        (vm("start.timeout = \"0s\""), (8, 17), "start.timeout", &["must be longer than zero"]),
        (vm("restart.reset_after = \"101years\""), (8, 23), "restart.reset_after", &["too long"]),
    ]);
}

#[test]
fn wrong_numbers_and_texts_are_told_with_their_rule() {
    hold(&[
        (vm("cid = 2"), (8, 7), "cid", &["CID 2 is reserved", "leave it out"]),
        (vm("vcpus = 0"), (8, 9), "vcpus", &["0 is out of range", "from 1 to 288"]),
        (vm("memory_mb = -1"), (8, 13), "memory_mb", &["-1 is out of range"]),
        (vm("restart.backoff.jitter = 1.5"), (8, 26), "restart.backoff.jitter", &["from 0.0 to 1.0"]),
        (vm("restart.backoff.multiplier = nan"), (8, 30), "restart.backoff.multiplier", &["out of range"]),
        (vm("restart.success_exit_codes = [256]"), (8, 31), "restart.success_exit_codes[0]", &["0 to 255"]),
        (vm("health.retries = 0"), (8, 18), "health.retries", &["out of range"]),
        (vm("health.tcp = 65536"), (8, 14), "health.tcp", &["65536 is out of range", "from 0 to 65535"]),
        (vm("health.tcp = \"6379\""), (8, 14), "health.tcp", &["write 6379, without quotes"]),
        (
            vm("health.http = \"http://127.0.0.1/healthz\""),
            (8, 15),
            "health.http",
            &["the \"http://\" is left out", "such as \"127.0.0.1:80/healthz\""],
        ),
        (vm("standby = -1"), (8, 11), "standby", &["out of range"]),
        (vm("standby = 17"), (8, 11), "standby", &["17 is out of range", "from 0 to 16"]),
        (vm("standby = 1\ncid = 42"), (8, 11), "standby", &["a CID of its own", "leave standby out"]),
        (
            vm("publish = [\"80:80\", \"localhost:81:80\"]"),
            (8, 21),
            "publish[1]",
            &["\"localhost:81:80\": no IP address before the port", "such as [\"127.0.0.1:6379:6379\""],
        ),
        (vm("publish = [\"80:80\", \"80:81\"]"), (8, 11), "publish", &["0.0.0.0:80 stands there twice"]),
        (vm("env = { \"A=B\" = \"c\" }"), (8, 9), "env.A=B", &["variable \"A=B\" is not allowed"]),
        (vm("env = { A = \"b\\nc\" }"), (8, 13), "env.A", &["a value has one line"]),
        (vm("command = [\"\"]"), (8, 11), "command", &["the program has no name"]),
        (vm("kernel_path = \"\""), (8, 15), "kernel_path", &["the path is empty"]),
        (
            format!("[supervisor]\ncontrol_socket = \"{}\"", "x".repeat(100)),
            (2, 18),
            "supervisor.control_socket",
            &["has 112 bytes, too many for a socket"],
        ),
        (
            format!(
                "[platform.pepita]\nvmm = \"process\"\n[supervisor]\nrun_dir = \"/{}\"\n[[group]]\nname = \"g\"\n\
                 [[group.vm]]\nname = \"a\"\n[[group.vm]]\nname = \"longer\"",
                "r".repeat(81)
            ),
            (10, 8),
            "group \"g\" vm \"longer\": name",
            &["its run directory /rrr", "5 bytes too long", "a run_dir, that is 5 bytes shorter"],
        ),
    ]);
}

#[test]
fn wrong_missing_and_duplicate_names_are_told() {
    hold(&[
        (
            "[[group]]\nname = \"Web\"".into(),
            (2, 8),
            "name",
            &["\"Web\" is not allowed", "use 1 to 63 of a-z"],
        ),
        ("[[group]]\n".into(), (1, 1), "group #1: name", &["missing", "write name ="]),
        ("[supervisor]\nname = \"\"".into(), (2, 8), "supervisor.name", &["is not allowed"]),
        (vm("[[group.vm]]\nname = \"api\""), (9, 8), "name", &["duplicate vm \"api\"", "in line 7"]),
        (
            vm("[[group]]\nname = \"db\"\n[[group.vm]]\nname = \"api\""),
            (11, 8),
            "group \"db\" vm \"api\": name",
            &["duplicate vm \"api\"", "group \"web\" vm \"api\" has it already, in line 7"],
        ),
        (vm("[[group]]\nname = \"web\""), (9, 8), "name", &["duplicate group \"web\""]),
        (vm("cid = 9\n[[group.vm]]\nname = \"b\"\ncid = 0x9"), (11, 7), "cid", &["duplicate CID 9"]),
    ]);
}

#[test]
fn keys_that_do_not_fit_together_are_told() {
    hold(&[
        (
            group("after = [\"wbe\"]"),
            (5, 10),
            "after[0]",
            &["unknown group \"wbe\"", "did you mean \"web\"?"],
        ),
        (group("after = [\"web\"]"), (5, 10), "after[0]", &["would wait for itself"]),
        (
            group(
                "after = [\"db\"]\n[[group]]\nname = \"db\"\nafter = [\"log\"]\n\
                   [[group]]\nname = \"log\"\nafter = [\"web\"]",
            ),
            (11, 10),
            "group \"log\": after[0]",
            &["groups wait for each other: log -> web -> db -> log", "take one of them out"],
        ),
        (
            vm("restart.backoff.initial_delay = \"2min\""),
            (8, 33),
            "restart.backoff.initial_delay",
            &["initial_delay (2m) is longer than max_delay (1m)"],
        ),
        (
            vm("restart.never_restart_exit_codes = [3]\nrestart.always_restart_exit_codes = [3]"),
            (9, 37),
            "restart.always_restart_exit_codes",
            &["exit code 3 is also in group \"web\" vm \"api\": restart.never_restart_exit_codes"],
        ),
        (
            vm("vmm = \"qemu\"\nrootfs_path = \"r\""),
            (6, 1),
            "kernel_path",
            &["missing", "write kernel_path = \"/boot/vmlinuz\" here, in its group or in [platform.pepita]"],
        ),
    ]);
}

#[test]
fn what_is_not_toml_is_told_with_its_place() {
    hold(&[
        ("a = 1\nb = \n".into(), (2, 5), "", &["string values must be quoted"]),
        ("a = 1\na = 2\n".into(), (2, 1), "", &["duplicate key"]),
    ]);
}

#[test]
fn eight_mistakes_are_eight_mistakes() {
    let text = r#"
[platform.pepita]
vcpus = 0
memory_mb = "much"
[supervisor]
orphans = "adpot"
[[group]]
name = "web"
strategie = "one_for_all"
after = ["db"]
[[group.vm]]
name = "api"
vmm = "process"
cid = 2
restart.policy = "allways"
stop.timeout = "soon"
"#;
    let errors = parse(text).expect_err("has mistakes");
    let paths: Vec<_> = errors.mistakes().iter().map(|mistake| mistake.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "platform.pepita.vcpus",
            "platform.pepita.memory_mb",
            "supervisor.orphans",
            "group \"web\": strategie",
            "group \"web\": after[0]",
            "group \"web\" vm \"api\": cid",
            "group \"web\" vm \"api\": restart.policy",
            "group \"web\" vm \"api\": stop.timeout",
        ]
    );
    assert!(errors.to_string().ends_with("/etc/pepita/web.toml: 8 mistakes"), "{errors}");
}

#[test]
fn a_mistake_looks_like_this() {
    let errors = parse(&vm("  restart.policy = \"allways\" # hm")).expect_err("has a mistake");
    assert_eq!(
        errors.to_string(),
        r#"error: group "web" vm "api": restart.policy: unknown restart policy "allways"
 --> /etc/pepita/web.toml:8:20
  |
8 |   restart.policy = "allways" # hm
  |                    ^^^^^^^^^ did you mean "always"? one of "always", "on-failure", "never", "unless-stopped"

/etc/pepita/web.toml: 1 mistake"#
    );
    let [mistake] = errors.mistakes() else { panic!("one mistake") };
    assert_eq!(mistake.place.found(), "\"allways\"");
}

#[test]
fn what_many_vms_inherit_is_wrong_once() {
    let text = "[defaults.restart.backoff]\ninitial_delay = \"5min\"\n".to_owned()
        + &vm("[[group.vm]]\nname = \"b\"\n[[group.vm]]\nname = \"c\"");
    assert_eq!(mistakes(&text).len(), 1);
}

#[test]
fn a_wrong_value_is_not_blamed_twice() {
    let qemu = |line: &str| {
        format!("[[group]]\nname = \"a\"\n[[group.vm]]\nname = \"b\"\nrootfs_path = \"r\"\n{line}")
    };
    for text in [
        qemu("kernel_path = 1"),
        qemu("vmm = \"kemu\""),
        vm("restart.backoff = { initial_delay = \"2min\", max_delay = 1 }"),
        "[[group]]\nname = \"A\"\n[[group]]\nname = \"b\"\nafter = [\"A\"]".to_owned(),
    ] {
        assert_eq!(mistakes(&text).len(), 1, "{text}");
    }
}

#[test]
fn loading_misses_images_once_each_where_they_are_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("a.toml");
    let text = "[platform.pepita]\nkernel_path = \"vmlinuz\"\nrootfs_path = \"root\"\n[[group]]\nname = \"g\"\n\
                [[group.vm]]\nname = \"a\"\n[[group.vm]]\nname = \"b\"\n\
                [[group.vm]]\nname = \"c\"\nvmm = \"process\"\n";
    std::fs::write(&file, text).expect("writable");
    std::fs::create_dir(dir.path().join("root")).expect("writable");
    let errors = config::load(&file).expect_err("no images");
    let [kernel, rootfs] = errors.mistakes() else { panic!("two mistakes: {errors}") };
    assert_eq!((kernel.place.line, kernel.place.column), (2, 15));
    assert_eq!(kernel.path, "platform.pepita.kernel_path");
    assert!(kernel.message.ends_with("vmlinuz does not exist"), "{kernel}");
    assert!(rootfs.message.ends_with("root is a directory"), "{rootfs}");

    // A pipe, and a device, through a link: neither is opened.
    mkfifoat(CWD, dir.path().join("vmlinuz"), Mode::RWXU).expect("a pipe");
    std::fs::remove_dir(dir.path().join("root")).expect("there");
    symlink("/dev/zero", dir.path().join("root")).expect("a link");
    let asks = |_: &Path, _: &Path| panic!("it is read");
    let errors = config::load_on(&file, config::HostFacts { run_dir: None, needed_mb: Some(&asks) });
    let errors = errors.expect_err("no files");
    let [kernel, rootfs] = errors.mistakes() else { panic!("two mistakes: {errors}") };
    assert_eq!(
        (kernel.path.as_str(), rootfs.path.as_str()),
        ("platform.pepita.kernel_path", "platform.pepita.rootfs_path")
    );
    assert!(kernel.message.ends_with("vmlinuz is not a regular file"), "{kernel}");
    assert!(rootfs.message.ends_with("root is not a regular file"), "{rootfs}");

    for image in ["vmlinuz", "root"] {
        std::fs::remove_file(dir.path().join(image)).expect("there");
    }
    std::fs::write(dir.path().join("vmlinuz"), "").expect("writable");
    std::fs::write(dir.path().join("root"), "").expect("writable");
    let spec = config::load(&file).expect("good now").spec;
    let kernel = dir.path().canonicalize().expect("there").join("vmlinuz");
    assert_eq!(spec.groups[0].vms[1].machine.kernel, kernel);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let errors = config::load(Path::new("/nowhere/at/all.toml")).expect_err("not there");
    assert!(errors.mistakes().is_empty());
    assert!(errors.to_string().starts_with("/nowhere/at/all.toml: No such file"), "{errors}");

    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("latin1.toml");
    std::fs::write(&file, b"# fine\n# caf\xe9\n").expect("writable");
    let errors = config::load(&file).expect_err("not UTF-8");
    let [mistake] = errors.mistakes() else { panic!("one mistake") };
    assert_eq!((mistake.place.line, mistake.place.column), (2, 6));
}

#[test]
fn a_file_that_may_have_no_end_or_block_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    mkfifoat(CWD, path("fifo"), Mode::RWXU).expect("made");
    symlink("/dev/zero", path("zero.toml")).expect("made");
    symlink("fifo", path("fifo.toml")).expect("made");
    let _listener = UnixListener::bind(path("socket")).expect("bound");
    for name in ["fifo", "fifo.toml", "zero.toml", "socket", "."] {
        let shown = format!("{}: is not a regular file", path(name).display());
        assert_eq!(config::load(&path(name)).expect_err(name).to_string(), shown);
        assert_eq!(config::control_socket(&path(name)).expect_err(name).to_string(), shown);
    }

    const CAP: usize = 4 << 20;
    let comment = |size: usize| format!("{}\n", "#".repeat(size - 1));
    std::fs::write(path("long.toml"), comment(CAP)).expect("writable");
    symlink("long.toml", path("link.toml")).expect("made");
    config::load(&path("link.toml")).expect("a link to a regular file of the maximum size");
    std::fs::write(path("long.toml"), comment(CAP + 1)).expect("writable");
    for name in ["long.toml", "link.toml"] {
        let shown = format!("{}: longer than 4 MiB", path(name).display());
        assert_eq!(config::load(&path(name)).expect_err(name).to_string(), shown);
    }
}

#[test]
fn the_control_socket_is_found_in_spite_of_mistakes_in_other_keys() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("a.toml");
    let socket = |text: &str| {
        std::fs::write(&file, text).expect("writable");
        config::control_socket(&file)
    };
    let place = dir.path().canonicalize().expect("there");
    for (written, meant) in [("c/c.sock", place.join("c/c.sock")), ("/run/c.sock", "/run/c.sock".into())] {
        let text = format!("rubbish = 99999999999999999999\n[supervisor]\ncontrol_socket = {written:?}\n");
        assert_eq!(socket(&text).expect("found"), Some(meant));
    }
    for none in ["", "supervisor = 1", "[supervisor]", "[supervisor]\ncontrol_socket = 1"] {
        assert_eq!(socket(none).expect("TOML"), None, "{none}");
    }
    let errors = socket("[supervisor]\ncontrol_socket = \"c.sock\"\nname = \n").expect_err("no TOML");
    let [mistake] = errors.mistakes() else { panic!("one mistake: {errors}") };
    assert_eq!((mistake.place.line, mistake.place.column), (3, 8));
}

#[test]
fn advice_is_given_on_what_will_not_work() {
    let table = [
        (
            vm("start.ready = \"health\""),
            Level::Warning,
            (8, 15),
            "without health.command, health.tcp or health.http only the guest agent is probed",
        ),
        (web("intensity = 1", "[[group.vm]]\nname = \"b\""), Level::Warning, (5, 13), "too few for 2 VMs"),
        (vm("restart.reset_after = \"1s\""), Level::Warning, (8, 23), "sooner than the longest delay of 1m"),
        (
            guest("publish = [\"127.0.0.1:8080:443\"]\nreach = [\"10.0.0.7:443\"]"),
            Level::Info,
            (9, 9),
            "cannot listen at all addresses (0.0.0.0) of that port",
        ),
        (vm("significant = true"), Level::Warning, (8, 15), "auto_shutdown is \"never\""),
        (group("auto_shutdown = \"any_significant\""), Level::Warning, (5, 17), "no VM of the group"),
        (group("intensity = 10"), Level::Info, (5, 13), "at most 6 restarts in 1m"),
        (group(""), Level::Info, (3, 1), "restarted for ever"),
    ];
    for (text, level, at, words) in table {
        let advice = parse(&text).unwrap_or_else(|errors| panic!("{errors}")).advice;
        let found = advice.iter().find(|advice| advice.message.contains(words));
        let advice = found.unwrap_or_else(|| panic!("{words} in {advice:#?}"));
        assert_eq!((advice.level, (advice.place.line, advice.place.column)), (level, at), "{advice}");
    }
}

#[test]
fn no_advice_is_given_where_there_is_no_need() {
    for text in [
        group("intensity = 5"),
        vm("restart.max_retries = 3"),
        vm("restart.policy = \"never\""),
        web("auto_shutdown = \"any_significant\"\nintensity = 3", "significant = true"),
    ] {
        let advice = parse(&text).unwrap_or_else(|errors| panic!("{errors}")).advice;
        assert_eq!(advice, [], "{text}");
    }
}

/// Pieces of configurations, so that random texts get past the first line.
const PIECES: &str = r#"[platform.pepita] [supervisor] [defaults.restart] [defaults.restart.backoff] [[group]] [[group.vm]]
    [group] name restart restart.policy stop.timeout backoff.max_delay after env command cid vcpus memory_mb kernel_path
    intensity period standby = = = { } [ ] , . "a" "b" "always" "30s" "9999999999y" 0 2 -1 99999999999999999999 0xff 1e400
    inf nan true 1979-05-27 ' """ \u0000 #"#;

fn piece() -> impl Strategy<Value = String> {
    let words: Vec<_> = PIECES.split_whitespace().map(str::to_owned).collect();
    prop_oneof![4 => proptest::sample::select(words), 2 => Just("\n".to_owned()), 1 => any::<String>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_text_panics(pieces in proptest::collection::vec(piece(), 0..60)) {
        if let Err(errors) = parse(&pieces.join(" ")) {
            prop_assert!(!errors.mistakes().is_empty());
            prop_assert!(!errors.to_string().is_empty());
        }
    }

    #[test]
    fn no_value_panics(
        key in "(vcpus|cid|env|command|restart|stop|health|after|start\\.timeout|restart\\.backoff\\.(jitter|max_delay))",
        value in "(\"[0-9]{1,21} ?[nmsuhdwy]{1,3} ?[0-9]{0,10}[a-z]{0,2}\"|-?[0-9]{1,25}(\\.[0-9]{1,3})?|\\[[0-9, ]{0,9}\\])",
    ) {
        for text in [vm(&format!("{key} = {value}")), group(&format!("{key} = {value}"))] {
            if let Ok(checked) = parse(&text) {
                prop_assert!(checked.spec.groups[0].vms[0].start.timeout > Duration::ZERO);
            }
        }
    }
}

#[test]
fn a_sum_that_just_misses_the_longest_duration_is_too_long() {
    let text = vm("stop.timeout = \"18446744073709551615s 1000000000ns\"");
    assert!(mistakes(&text)[0].message.ends_with("is too long"));
}

#[test]
fn memory_that_cannot_boot_the_images_is_told_once_where_it_is_written() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("c.toml");
    for image in ["k", "r"] {
        std::fs::write(dir.path().join(image), "").expect("written");
    }
    let text = "[platform.pepita]\nkernel_path = \"k\"\nrootfs_path = \"r\"\nmemory_mb = 48\n[[group]]\nname = \"g\"\n\
        [[group.vm]]\nname = \"a\"\n[[group.vm]]\nname = \"b\"\n[[group.vm]]\nname = \"c\"\nmemory_mb = 96\n\
        [[group.vm]]\nname = \"d\"\nmemory_mb = 32\n[[group.vm]]\nname = \"e\"\nmemory_mb = 32\nvmm = \"process\"\n";
    std::fs::write(&file, text).expect("written");
    let calls = std::cell::Cell::new(0);
    let needed = |kernel: &Path, root: &Path| {
        calls.set(calls.get() + 1);
        (kernel.ends_with("k") && root.ends_with("r")).then_some(96)
    };
    let facts = config::HostFacts { run_dir: None, needed_mb: Some(&needed) };
    let errors = config::load_on(&file, facts).expect_err("too little");
    let lines: Vec<usize> = errors.mistakes().iter().map(|mistake| mistake.place.line).collect();
    assert_eq!((lines, calls.get()), (vec![4, 16], 1), "{errors}");
    assert!(
        errors.to_string().contains("48 MiB are too little: this kernel and root need 96 MiB to boot"),
        "{errors}"
    );
    assert!(config::load(&file).is_ok(), "without the facts it is not known");
}
