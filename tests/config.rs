//! The meaning of configurations, and the correctness of the files in `config/`.

use pepita_supervisor::config::{self, Checked, Level};
use pepita_supervisor::spec::{
    Backoff, GroupName, GroupSpec, HealthCheck, Intensity, MachineSpec, Network, OnUnhealthy, Restart,
    RestartSpec, Signal, TreeSpec, VmName, VmSpec, Vmm, WorldSpec,
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

fn good(text: &str) -> TreeSpec {
    let checked = config::parse(text, Path::new("/etc/pepita/web.toml"));
    checked.unwrap_or_else(|errors| panic!("{errors}")).spec
}

/// Returns the only VM of the only group, a process, with these lines.
fn vm(lines: &str) -> VmSpec {
    let text = format!(
        "[platform.pepita]\nvmm = \"process\"\n[[group]]\nname = \"g\"\n[[group.vm]]\nname = \"a\"\n{lines}"
    );
    good(&text).groups[0].vms[0].clone()
}

#[test]
fn a_world_is_read_and_its_files_begin_at_the_files_folder() {
    let spec = good(
        r#"
        [platform.pepita]
        kernel_path = "/k"
        rootfs_path = "/r"
        [[group]]
        name = "g"
        [[group.vm]]
        name = "a"
        user = "redis:ssl-cert"
        workdir = "/data"
        hostname = "cache.example"
        env_file = "a.env"
        secrets = ["tls-key=pki/a=b.key", "other=/o"]
        ulimits = { nofile = 65_536, core = "0:unlimited", nproc = "7" }
        sysctls = { "vm.overcommit_memory" = 1, "kernel.core_pattern" = "core.%p" }
        read_only = true
        privileged = true
        network = "user"
        "#,
    );
    let limit = |text: &str| text.parse().expect("a limit");
    let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let expected = WorldSpec {
        hostname: Some("cache.example".into()),
        user: Some("redis:ssl-cert".into()),
        workdir: Some("/data".into()),
        env_file: Some("/etc/pepita/a.env".into()),
        secrets: [
            ("tls-key".to_owned(), "/etc/pepita/pki/a=b.key".into()),
            ("other".to_owned(), "/o".into()),
        ]
        .into(),
        ulimits: [("nofile", "65536"), ("core", "0:unlimited"), ("nproc", "7")]
            .map(|(name, text)| (name.to_owned(), limit(text)))
            .into(),
        sysctls: [text("vm.overcommit_memory", "1"), text("kernel.core_pattern", "core.%p")].into(),
        read_only: true,
        privileged: true,
        network: Network::User,
    };
    assert_eq!(spec.groups[0].vms[0].world, expected);
}

#[test]
fn an_image_is_the_root_of_its_vm_and_its_path_begins_at_the_files_folder() {
    let machine = |platform: &str, group: &str, vm: &str| {
        let text = format!(
            "[platform.pepita]\n{platform}\n[[group]]\nname = \"g\"\n{group}\n[[group.vm]]\nname = \"a\"\n{vm}"
        );
        let machine = good(&text).groups[0].vms[0].machine.clone();
        (machine.image.unwrap_or_default(), machine.rootfs.to_string_lossy().into_owned())
    };
    let of = |image: &str| machine("", "", &format!("image = {image:?}"));
    for (written, meant) in [
        ("redis:7", "redis:7"),
        ("oci:a/b", "oci:/etc/pepita/a/b"),
        ("oci:../b:7", "oci:/etc/b:7"),
        ("docker-archive:/x.tar:redis:7", "docker-archive:/x.tar:redis:7"),
    ] {
        assert_eq!(of(written), (meant.to_owned(), String::new()));
    }
    let (root, image) = ("kernel_path = \"/k\"\nrootfs_path = \"/r\"", "image = \"b\"");
    let (only_image, only_root) = (("b".to_owned(), String::new()), (String::new(), "/r".to_owned()));
    assert_eq!(machine(root, "", image), only_image);
    assert_eq!(machine(root, image, ""), only_image);
    assert_eq!(machine(image, "", root), only_root);
    assert_eq!(machine("", image, root), only_root);
}

#[test]
fn keys_merge_one_by_one_and_arrays_replace() {
    let spec = good(
        r#"
[platform.pepita]
vcpus = 3
memory_mb = 100
kernel_path = "/k"
rootfs_path = "root.cpio"
[defaults.restart]
policy = "always"
max_retries = 7
success_exit_codes = [0, 1]
[defaults.restart.backoff]
initial_delay = "2s"
max_delay = "20s"
[[group]]
name = "g"
memory_mb = 200
restart.max_retries = 8
restart.backoff.max_delay = "30s"
health.on_unhealthy = "report"
[[group.vm]]
name = "a"
memory_mb = 300
restart.success_exit_codes = [2]
restart.backoff = { max_delay = "40s" }
[[group.vm]]
name = "b"
health.on_unhealthy = "restart"
"#,
    );
    let [a, b] = &spec.groups[0].vms[..] else { panic!("two VMs") };
    let memory = |vm: &VmSpec| (vm.machine.vcpus, vm.machine.memory_mb);
    assert_eq!((memory(a), memory(b)), ((3, 300), (3, 200)));
    assert_eq!(a.machine.rootfs, Path::new("/etc/pepita/root.cpio"));
    let delays = |vm: &VmSpec| (vm.restart.backoff.initial.as_secs(), vm.restart.backoff.max.as_secs());
    assert_eq!((delays(a), delays(b)), ((2, 40), (2, 30)));
    assert_eq!((a.restart.policy, a.restart.max_retries), (Restart::Always, 8));
    assert_eq!((&a.restart.success, &b.restart.success), (&[2].into(), &[0, 1].into()));
    assert_eq!((a.health.on_unhealthy, b.health.on_unhealthy), (OnUnhealthy::Report, OnUnhealthy::Restart));
    // The supervisor's own curve inherits no key.
    assert_eq!(spec.backoff, Backoff::default());
}

#[test]
fn a_vm_has_one_kind_of_probe_and_may_switch_off_an_inherited_one() {
    let file = |group: &str, vm: &str| {
        format!(
            "[platform.pepita]\nkernel_path = \"/k\"\nrootfs_path = \"/r\"\n[[group]]\nname = \"g\"\n{group}\n\
             [[group.vm]]\nname = \"a\"\n{vm}\n"
        )
    };
    let health = |group: &str, vm: &str| good(&file(group, vm)).groups[0].vms[0].health.clone();
    let inherited = health("health.tcp = 6379", "");
    assert_eq!(inherited.check(), HealthCheck::Tcp(6379));
    let other = health("health.tcp = 6379", "health = { tcp = 0, http = \"80/healthz\" }");
    let place = "127.0.0.1:80/healthz".parse().expect("a place");
    assert_eq!(other.check(), HealthCheck::Http(&place));
    let none = health("health.http = \"80\"", "health.http = \"\"");
    assert_eq!(none.check(), HealthCheck::Ping);
    let text = file("health.command = [\"/bin/check\"]", "health.tcp = 80\nhealth.http = \"80\"");
    let errors = config::parse(&text, Path::new("/etc/pepita/tree.toml")).expect_err("two kinds").to_string();
    for part in ["health.tcp", "health.http", "a VM has one kind of probe", "health.command = []"] {
        assert!(errors.contains(part), "{part}: {errors}");
    }
    assert_eq!(errors.matches("one kind of probe").count(), 2, "{errors}");
}

#[test]
fn nothing_written_means_the_defaults_of_the_spec() {
    assert_eq!(good(""), TreeSpec::new(config::DEFAULT_NAME));
    let spec =
        good("[[group]]\nname=\"g\"\n[[group.vm]]\nname=\"a\"\nkernel_path=\"/k\"\nrootfs_path=\"/r\"");
    let vm = VmSpec::new(VmName::new("a").expect("good"), MachineSpec::qemu("/k", "/r"));
    let group = GroupSpec::new(GroupName::new("g").expect("good"), vec![vm]);
    assert_eq!(spec, TreeSpec { groups: vec![group], ..TreeSpec::new(config::DEFAULT_NAME) });
}

#[test]
fn the_adapters_documented_section_is_a_configuration() {
    let text = r#"[platform.pepita]
vcpus = 2
memory_mb = 256
kernel_path = "/boot/vmlinuz"
rootfs_path = "/var/lib/pepita/rootfs.ext4"
vsock_base_port = 5000
"#;
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("pepita.toml");
    std::fs::write(&file, text).expect("writable");
    // No VM needs the images, so that no image is reported as missing.
    let checked = config::load(&file).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(
        checked,
        Checked {
            spec: TreeSpec::new(config::DEFAULT_NAME),
            machine: MachineSpec::qemu("/boot/vmlinuz", "/var/lib/pepita/rootfs.ext4"),
            advice: Vec::new()
        }
    );
}

#[test]
fn other_dialects_are_read() {
    for (word, meant) in [
        ("permanent", Restart::Always),
        ("transient", Restart::OnFailure),
        ("temporary", Restart::Never),
        ("unless-stopped", Restart::UnlessStopped),
    ] {
        assert_eq!(vm(&format!("restart.policy = \"{word}\"")).restart.policy, meant);
    }
    let vm = vm("stop = { signal = 10, timeout = \"1m 30s\" }\nrestart.backoff.multiplier = 3");
    assert_eq!((vm.stop.signal, vm.stop.timeout), (Some(Signal::USR1), Duration::from_secs(90)));
    assert_eq!(vm.restart.backoff.multiplier, 3.0);
}

#[test]
fn an_intensity_without_a_period_keeps_the_default_period() {
    let spec = good("[[group]]\nname = \"db\"\n[[group]]\nname = \"web\"\nintensity = 9\nafter = [\"db\"]");
    assert_eq!(spec.groups[1].intensity, Intensity { max_restarts: 9, period: Duration::from_secs(60) });
    assert_eq!(spec.groups[1].after, [GroupName::new("db").expect("good")]);
}

#[test]
fn a_disk_has_the_names_and_the_size_of_its_table_and_changes_the_fingerprint() {
    let text = r#"
[[group]]
name = "g"
[[group.vm]]
name = "db"
kernel_path = "/k"
rootfs_path = "/r"
[[group.vm.disk]]
name = "data"
mount = "/data"
size = "1GiB"
[[group.vm.disk]]
name = "more"
mount = "/more"
path = "disks/more.img"
read_only = true
[[group.vm.share]]
path = "site"
mount = "/srv/www"
[[group.vm.share]]
path = "/srv/in"
mount = "/in"
read_only = false
"#;
    let vm = good(text).groups[0].vms[0].clone();
    let [data, more] = &vm.disks[..] else { panic!("two disks") };
    assert_eq!((data.name.as_str(), data.mount.as_str(), data.size_mb), ("data", "/data", Some(1024)));
    assert_eq!((data.path.as_deref(), data.read_only), (None, false));
    assert_eq!((more.path.as_deref(), more.read_only), (Some(Path::new("/etc/pepita/disks/more.img")), true));
    let [site, inbox] = &vm.shares[..] else { panic!("two shares") };
    assert_eq!((site.path.as_path(), site.read_only), (Path::new("/etc/pepita/site"), true));
    assert_eq!((inbox.mount.as_str(), inbox.read_only), ("/in", false));
    for without in [VmSpec { disks: Vec::new(), ..vm.clone() }, VmSpec { shares: Vec::new(), ..vm.clone() }] {
        assert_ne!(vm.fingerprint(), without.fingerprint());
    }
}

#[test]
fn a_process_needs_no_images_and_is_given_none() {
    let machine = vm("kernel_path = \"/k\"").machine;
    assert_eq!((machine.vmm, machine.kernel.as_os_str()), (Vmm::Process, "".as_ref()));
}

#[test]
fn a_bare_launcher_is_looked_for_and_a_path_to_it_begins_at_the_file() {
    for (written, meant) in [("pepita", "pepita"), ("./pepita", "/etc/pepita/pepita"), ("/bin/p", "/bin/p")] {
        assert_eq!(good(&format!("[supervisor]\npepita = \"{written}\"")).pepita.as_os_str(), meant);
    }
}

fn shipped(file: &str) -> (String, Checked) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(file);
    let text = std::fs::read_to_string(&path).expect("readable");
    let checked = config::parse(&text, &path).unwrap_or_else(|errors| panic!("{errors}"));
    (text, checked)
}

#[test]
fn every_shipped_file_is_right_and_needs_no_warning() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut files = 0;
    for file in std::fs::read_dir(dir).expect("there") {
        let name = file.expect("readable").file_name().into_string().expect("a plain name");
        // The other file is the configuration of the small guest kernel.
        if name == "kernel.config" {
            continue;
        }
        let (_, checked) = shipped(&name);
        let warnings: Vec<_> =
            checked.advice.iter().filter(|advice| advice.level == Level::Warning).collect();
        assert!(warnings.is_empty(), "{name}: {warnings:#?}");
        files += 1;
    }
    assert_eq!(files, 7);
}

#[test]
fn the_quickstart_has_two_vms_beside_the_guest_directory() {
    let spec = shipped("quickstart.toml").1.spec;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert_eq!(spec.name, "quickstart");
    assert_eq!(spec.control_socket.as_deref(), Some(root.join(".guest/run/control.sock").as_path()));
    let names: Vec<_> = spec.groups[0].vms.iter().map(|vm| vm.name.as_str()).collect();
    assert_eq!(names, ["alpha", "beta"]);
    assert_eq!(spec.groups[0].vms[0].machine.kernel, root.join(".guest/vmlinuz"));
}

#[test]
fn a_plain_process_is_a_program_of_the_host_named_from_the_files_folder_on() {
    let program = |written: &str| vm(&format!("command = [{written:?}, \"./x\"]")).command;
    assert_eq!(program("../bin/d"), ["/etc/bin/d", "./x"]);
    assert_eq!(program("./d"), ["/etc/pepita/d", "./x"]);
    assert_eq!(program("/bin/d"), ["/bin/d", "./x"]);
    assert_eq!(program("d"), ["d", "./x"], "looked for in PATH");
    let guest = "kernel_path=\"/k\"\nrootfs_path=\"/r\"\nvmm=\"qemu\"\ncommand = [\"bin/d\"]";
    assert_eq!(vm(guest).command, ["bin/d"], "a program of the guest");
}

#[test]
fn an_embedded_tree_needs_nothing_of_the_host() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/embedded.toml");
    config::load(&path).unwrap_or_else(|errors| panic!("{errors}"));
}

#[test]
fn the_reference_has_every_default() {
    let (text, checked) = shipped("reference.toml");
    let machine = MachineSpec::qemu("/boot/vmlinuz", "/var/lib/pepita/rootfs.ext4");
    let vm = |name: &str| VmSpec::new(VmName::new(name).expect("good"), machine.clone());
    let group = GroupSpec::new(GroupName::new("web").expect("good"), vec![vm("api"), vm("cache")]);
    assert_eq!(checked.spec, TreeSpec { groups: vec![group], ..TreeSpec::new(config::DEFAULT_NAME) });
    assert_eq!(checked.spec.groups[0].vms[0].restart, RestartSpec::default());

    // The keys without a default can be switched on, too, except the one that excludes another.
    let on = |line: &str| match line.strip_prefix('#') {
        Some(key) if !key.starts_with(' ') && !key.starts_with("image =") => format!("{key}\n"),
        Some(_) | None => format!("{line}\n"),
    };
    let spec = good(&text.lines().map(on).collect::<String>());
    assert!(spec.state_dir.is_some() && spec.run_dir.is_some() && spec.control_socket.is_some());
    assert_eq!(spec.groups[0].vms[0].cid.map(|cid| cid.get()), Some(42));
    assert_eq!(spec.groups[0].vms[0].disks[0].size_mb, Some(10240));
}

/// Returns the leaves of a table's schema, by their dotted names.
fn leaves(table: &Value, prefix: &str, found: &mut BTreeMap<String, Value>) {
    for (key, schema) in table["properties"].as_object().expect("a table") {
        let name = format!("{prefix}{key}");
        match (&schema["properties"], &schema["items"]["properties"]) {
            (Value::Object(_), _) => leaves(schema, &format!("{name}."), found),
            (_, Value::Object(_)) => leaves(&schema["items"], &format!("{name}."), found),
            _ => drop(found.insert(name, schema.clone())),
        }
    }
}

/// Returns the lines of the reference that are keys: full name, value, comment.
fn reference() -> Vec<(String, Value, String)> {
    let (text, _) = shipped("reference.toml");
    let (mut section, mut lines) = (String::new(), Vec::new());
    for line in text.lines() {
        // A table that is switched off counts, too.
        let shown = line.strip_prefix('#').filter(|rest| rest.starts_with('[')).unwrap_or(line);
        if shown.starts_with('[') {
            section = shown.trim_matches(['[', ']']).to_owned();
        } else if let Some((key, rest)) = line.strip_prefix('#').unwrap_or(line).split_once(" = ")
            && !key.contains(' ')
            && let Some((value, comment)) = rest.split_once("  # ").or_else(|| rest.split_once(" # "))
        {
            let value: toml::Table = format!("x = {value}").parse().expect("a value");
            let value = serde_json::to_value(&value["x"]).expect("no dates");
            lines.push((format!("{section}.{key}"), value, comment.to_owned()));
        }
    }
    lines
}

#[test]
fn the_reference_and_the_schema_have_the_same_keys_defaults_and_descriptions() {
    let mut schema = BTreeMap::new();
    leaves(&config::schema(), "", &mut schema);
    let reference = reference();
    let mut seen = BTreeSet::new();
    for (name, value, comment) in &reference {
        let key = schema.get(name).unwrap_or_else(|| panic!("{name} is not in the schema"));
        assert_eq!(key["description"], **comment, "{name}");
        if let Some(default) = key.get("default") {
            assert_eq!(default, value, "{name}");
        }
        assert!(seen.insert(name.as_str()), "{name} twice");
    }
    for (name, key) in &schema {
        // The keys that groups and VMs inherit stand in the table that they are inherited from.
        let own = name.strip_prefix("group.vm.").or(name.strip_prefix("group.")).unwrap_or(name);
        let forms = [name.clone(), format!("platform.pepita.{own}"), format!("defaults.{own}")];
        let form = forms.iter().find(|form| seen.contains(form.as_str()));
        let form = form.unwrap_or_else(|| panic!("{name} is not in the reference"));
        assert_eq!(key["description"], schema[form]["description"], "{name}");
    }
}

/// The reader reads everything that the schema allows: a key with its default, in every place of the schema.
#[test]
fn every_key_of_the_schema_is_read_where_the_schema_has_it() {
    let mut schema = BTreeMap::new();
    leaves(&config::schema(), "", &mut schema);
    let mut read = 0;
    for (name, key) in &schema {
        let value = match (&key["default"], key["enum"][0].as_str(), key["type"].as_str()) {
            (Value::Null, Some(word), _) => format!("{word:?}"),
            (Value::Null, None, Some("integer")) => key["minimum"].to_string(),
            (Value::Null, None, Some("array")) => "[]".to_owned(),
            (Value::Null, None, _) if name.contains("stop.signal") => "\"TERM\"".to_owned(),
            (Value::Null, None, Some("number")) => {
                format!("{:?}", key["minimum"].as_f64().expect("a number"))
            }
            (Value::Null, None, Some("boolean")) => "true".to_owned(),
            (Value::Null, None, Some("object")) => "{}".to_owned(),
            (Value::Null, None, _) if name.ends_with(".size") => "\"1GiB\"".to_owned(),
            (Value::Null, None, _) if name.ends_with(".jail_uids") => "\"700-709\"".to_owned(),
            (Value::Null, None, _) if name.ends_with(".http") => "\"80\"".to_owned(),
            (Value::Null, None, _) if name.ends_with(".mount") => "\"/x\"".to_owned(),
            (Value::Null, None, _) if key["pattern"].as_str().is_some_and(|p| p.contains("[0-9]+")) => {
                "\"45s\"".to_owned()
            }
            (Value::Null, None, _) if key["pattern"] == "^/" => "\"/x\"".to_owned(),
            (Value::Null, None, _) => "\"x\"".to_owned(),
            (Value::Object(_), ..) => "{}".to_owned(),
            (default, ..) => default.to_string(),
        };
        let line = |own: &str| if own == "name" { String::new() } else { format!("{own} = {value}") };
        let text = match (name.strip_prefix("group.vm."), name.strip_prefix("group.")) {
            (Some(own), _) if own.starts_with("disk.") => {
                let needed = ["disk.name = \"d\"\n", "disk.mount = \"/d\"\n"];
                let needed: String = needed.into_iter().filter(|line| !line.starts_with(own)).collect();
                let keys = format!("{needed}{own} = {value}").replace("disk.", "");
                format!("[[group]]\nname = \"a\"\n[[group.vm]]\nname = \"b\"\n[[group.vm.disk]]\n{keys}")
            }
            (Some(own), _) if own.starts_with("share.") => {
                let needed = ["share.path = \"/s\"\n", "share.mount = \"/d\"\n"];
                let needed: String = needed.into_iter().filter(|line| !line.starts_with(own)).collect();
                let keys = format!("{needed}{own} = {value}").replace("share.", "");
                format!("[[group]]\nname = \"a\"\n[[group.vm]]\nname = \"b\"\n[[group.vm.share]]\n{keys}")
            }
            (Some(own), _) => format!(
                "platform.pepita = {{ kernel_path = \"/k\", rootfs_path = \"/r\" }}\n[[group]]\nname = \"a\"\n[[group.vm]]\nname = \"b\"\n{}{}",
                // What sleeps needs a port.
                if own == "publish" { "" } else { "publish = [\"80:80\"]\n" },
                line(own)
            ),
            (None, Some(own)) => format!("[[group]]\nname = \"a\"\n{}", line(own)),
            (None, None) => format!("{name} = {value}"),
        };
        let parsed = config::parse(&text, Path::new("a.toml"));
        // Images are missing where `vmm = "qemu"` was tried; all other mistakes would be unexpected.
        if let Err(errors) = parsed {
            assert!(errors.mistakes().iter().all(|mistake| mistake.path.ends_with("_path")), "{errors}");
        }
        read += 1;
    }
    assert!(read > 100, "{read}");
}
