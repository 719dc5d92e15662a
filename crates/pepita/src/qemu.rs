//! Builds QEMU's command line for a microVM. Runs no process.
//!
//! The options come from measurements: modern Debian kernels find microvm's devices through ACPI, an emulated guest
//! needs the frequency of its TSC as a parameter, and `reboot=t panic=-1` with `-no-reboot` makes QEMU end with the
//! guest.

use crate::host::cgroup::Demand;
use crate::rundir::layout;
use crate::vm_config::{Accel, Disk, Root, VmConfig, VmRequest, share_tag};
use pepita_wire::network::Network;
use pepita_wire::record::Transport;
use pepita_wire::storage;
use std::ffi::OsString;

/// The bounds of QEMU's cache of translated code for an emulated guest, in MiB. A boot fills 44 MiB of it.
const TRANSLATED_MB: (u64, u64) = (64, 256);

/// Returns the size of QEMU's cache of translated code, in MiB: half of the guest's memory, within bounds. A cache that is full is
/// emptied, and all that runs is translated again, so that a guest with room for large programs needs a large one. (QEMU's
/// default is an eighth of the host's memory, up to 1 GiB.)
fn translated_mb(request: &VmRequest) -> u64 {
    let (least, most) = TRANSLATED_MB;
    (request.memory_mb / 2).clamp(least, most)
}

/// The memory that QEMU and the vsock back-end need in addition to the guest's memory, in MiB.
const OVERHEAD_MB: u64 = 128;

/// The memory that the server of a share needs, in MiB.
const SERVER_MB: u64 = 32;

/// The beginning of QEMU's names for the drives of disks.
pub(crate) const DRIVE_PREFIX: &str = "disk-";

/// The descriptors that QEMU inherits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Descriptors<'a> {
    /// A listening socket for the QEMU monitor protocol.
    pub qmp: i32,
    /// `/dev/vhost-vsock` with the CID set, on the kernel transport; else a connection to the back-end.
    pub vsock: i32,
    /// A socket from which the boot token is read, for an agent that takes it from a port.
    pub token: Option<i32>,
    /// The network device of the host, with the network `tap`.
    pub tap: Option<i32>,
    /// A connection to the server of each share.
    pub shares: &'a [i32],
    /// The disk of the root, if it is one, and the layer above it that takes what is written.
    pub root: Option<Handed>,
    pub layer: Option<Handed>,
    /// The disks, in the order of the request.
    pub disks: &'a [Handed],
}

/// A disk that QEMU inherits open. QEMU opens no disk by its name: its user need not have the right to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Handed {
    /// The descriptor, open for what the guest may do.
    pub fd: i32,
    /// Whether it is a block device.
    pub is_device: bool,
}

impl Handed {
    /// Returns the options of a drive for this disk, the set of descriptors with the number of its descriptor.
    fn options(self, prefix: &str) -> String {
        let driver = if self.is_device { "host_device" } else { "file" };
        format!("{prefix}file.driver={driver},{prefix}file.filename=/dev/fdset/{}", self.fd)
    }
}

/// The longest line that QEMU reads in a file of options, in bytes (`qemu_config_foreach`).
const CONFIG_LINE_CAP: usize = 1000;

/// The steps of a kernel's start that an emulated guest leaves out (`initcall_blacklist`): the files of the kernel's tracing,
/// the kernel's tests of its own hashes, and its record of measured files, which has no policy. They take a tenth of such a
/// boot. A kernel ignores the names that it does not know.
const LEFT_OUT: &str = "initcall_blacklist=trace_eval_init,tracer_init_tracefs,init_kprobe_trace,\
    init_trace_printk_function_export,crypto_kdf108_init,blake2s_mod_init,init_ima";

/// Returns the resources that a VM may use: the guest's memory and the memory of its emulation, and the virtual CPUs.
pub(crate) fn demand(request: &VmRequest) -> Demand {
    let emulator = if request.accel == Accel::Tcg { translated_mb(request) } else { 0 };
    let memory_mb = request.memory_mb + OVERHEAD_MB + emulator + SERVER_MB * request.shares.len() as u64;
    Demand { name: request.name.clone(), memory_mb, cpus: request.cpus }
}

/// Returns the kernel's command line.
pub(crate) fn cmdline(config: &VmConfig, token: &str) -> String {
    let request = &config.request;
    // With the last word a process that is moved to another cgroup waits for an interrupt of each CPU, and not for three ticks of
    // the guest's clock (12 ms): the daemon, and each command that the agent runs for a host.
    let mut words =
        vec!["console=hvc0 quiet reboot=t panic=-1 cryptomgr.notests rcupdate.rcu_expedited=1".to_owned()];
    match request.accel {
        // An emulated guest is for trying and for tests: mitigations against attacks on the CPU protect nothing in it
        // (QEMU's emulation is no security boundary), and without them and without security modules it boots 150 ms
        // sooner.
        Accel::Tcg => {
            // A kernel with one CPU would take the prefix `lock` out of its code, at thousands of places, each of which
            // QEMU translates again: a tenth of a second, and nothing is won by it.
            words.push("mitigations=off lsm= noreplace-smp".to_owned());
            // Each such word adds to the others, so that a list of the user's takes the place of ours.
            if !request.cmdline_append.contains("initcall_blacklist=") {
                words.push(LEFT_OUT.to_owned());
            }
        }
        // A guest on real CPUs keeps what its kernel does to protect itself.
        Accel::Kvm | Accel::None => {}
    }
    if let (Accel::Tcg, Some(khz)) = (request.accel, request.tsc_khz) {
        // An emulated guest sees the host's counter. Its kernel would check the counter against timer interrupts, of which
        // emulation loses some on a busy host, would give the counter up, and then lose time with each lost interrupt.
        words.push(format!("tsc_early_khz={khz} tsc=reliable"));
    }
    if let Root::Disk { initrd: None, .. } = request.root {
        words.push("root=/dev/vda rw init=/sbin/daemonctl".to_owned());
    }
    let VmConfig { cid, incarnation, .. } = config;
    let port = request.port;
    // The command line is no secret in the guest, so only an older agent finds its token there.
    words.push(match request.token_port {
        true => format!("pepita.token_port={}", token.len()),
        false => format!("pepita.token={token}"),
    });
    words.push(format!("pepita.port={port} pepita.incarnation={incarnation} pepita.cid={cid}"));
    if !request.cmdline_append.is_empty() {
        words.push(request.cmdline_append.clone());
    }
    words.join(" ")
}

/// Returns the file of options by which QEMU gets a command line with a token: any user of the host can read QEMU's
/// arguments. Returns `None` for a command line that no file of options can hold.
pub(crate) fn options_file(config: &VmConfig, cmdline: &str) -> Option<String> {
    let fits = cmdline.len() < CONFIG_LINE_CAP && !cmdline.contains(['"', '\n', '\r']);
    (!config.request.token_port && fits).then(|| format!("[machine]\n append = \"{cmdline}\"\n"))
}

/// The way in which QEMU gets the kernel's command line.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Append<'a> {
    /// As an argument.
    Argument(&'a str),
    /// In a file of options.
    File(&'a str),
}

/// Returns QEMU's arguments. QEMU runs in the VM's run directory, so that sockets have short names.
pub(crate) fn argv(config: &VmConfig, append: Append<'_>, fds: Descriptors<'_>) -> Vec<OsString> {
    let request = &config.request;
    let mut argv: Vec<OsString> = Vec::new();
    let mut add = |option: &str, value: OsString| argv.extend([OsString::from(option), value]);
    let memory = format!("{}M", request.memory_mb);
    // The memory is shared with the vsock back-end, which is another process.
    // The first serial port, on which a kernel can write before any driver is loaded, costs time: a kernel that finds
    // it uses it.
    let early = wants_early_console(request);
    let serial = if early { "on" } else { "off" };
    add("-M", format!("microvm,memory-backend=mem,isa-serial={serial}").into());
    add("-object", format!("memory-backend-memfd,id=mem,size={memory},share=on").into());
    add(
        "-accel",
        match request.accel {
            Accel::Tcg => format!("tcg,tb-size={}", translated_mb(request)).into(),
            accel @ (Accel::Kvm | Accel::None) => accel.as_str().into(),
        },
    );
    if request.accel == Accel::Kvm {
        add("-cpu", "host".into());
    }
    add("-m", memory.into());
    add("-smp", request.cpus.to_string().into());
    add("-name", request.name.clone().into());
    for handed in [fds.root, fds.layer].iter().flatten().chain(fds.disks) {
        add("-add-fd", format!("fd={fd},set={fd}", fd = handed.fd).into());
    }
    if let Some(kernel) = &request.kernel {
        add("-kernel", kernel.into());
    }
    match &request.root {
        Root::Initramfs(image) => add("-initrd", image.into()),
        Root::Disk { initrd, .. } => {
            if let Some(initrd) = initrd {
                add("-initrd", initrd.into());
            }
            // Writes go to a layer that ends with the VM, so every incarnation starts from the same image.
            if let (Some(image), Some(layer)) = (fds.root, fds.layer) {
                let (image, layer) = (image.options("backing."), layer.options(""));
                let options = "if=none,id=root,format=qcow2,cache=unsafe,auto-read-only=off";
                let backing = "backing.driver=raw,backing.read-only=on";
                add("-drive", format!("{options},{layer},{backing},{image}").into());
            }
            // When the host's disk is full, the guest gets an error. (QEMU's default is to pause the guest.)
            add("-device", "virtio-blk-device,drive=root,werror=report,rerror=report".into());
        }
        Root::Shared { initrd, .. } => {
            add("-initrd", initrd.into());
            // QEMU locks the file against being written to, and by that lock the image is known to be in use.
            if let Some(image) = fds.root {
                let image = image.options("");
                add("-drive", format!("if=none,id=root,format=raw,readonly=on,{image}").into());
            }
            add("-device", "virtio-blk-device,drive=root,rerror=report".into());
        }
        Root::Host(_) => {}
    }
    for (disk, handed) in request.disks.iter().zip(fds.disks) {
        add("-drive", data_drive(disk, *handed).into());
        let serial = storage::serial(&disk.name);
        let id = drive_id(&disk.name);
        add(
            "-device",
            format!("virtio-blk-device,drive={id},serial={serial},werror=report,rerror=report").into(),
        );
    }
    match request.network {
        Network::None => {}
        Network::User => {
            add("-netdev", "user,id=net,ipv6=off".into());
            add("-device", "virtio-net-device,netdev=net".into());
        }
        Network::Tap => {
            if let (Some(tap), Some(fd)) = (&request.tap, fds.tap) {
                add("-netdev", format!("tap,id=net,fd={fd}").into());
                add("-device", format!("virtio-net-device,netdev=net,mac={}", tap.mac()).into());
            }
        }
    }
    if !fds.shares.is_empty() {
        // The device is one of virtio's version 1 only.
        add("-global", "virtio-mmio.force-legacy=false".into());
    }
    for (index, fd) in fds.shares.iter().enumerate() {
        let tag = share_tag(index);
        add("-chardev", format!("socket,id={tag},fd={fd}").into());
        add("-device", format!("vhost-user-fs-device,chardev={tag},tag={tag}").into());
    }
    match append {
        Append::Argument(cmdline) => add("-append", cmdline.into()),
        Append::File(path) => add("-readconfig", path.into()),
    }
    // The guest's kernel tells its panic to this device. A line on the console would prove nothing.
    add("-device", "pvpanic".into());
    // The console and the token: each further port that there could be costs the guest memory.
    add("-device", "virtio-serial-device,max_ports=2".into());
    let mux = if early { ",mux=on" } else { "" };
    add("-chardev", format!("pipe,id=console,path={}{mux}", layout::CONSOLE_PIPES).into());
    add("-device", "virtconsole,chardev=console".into());
    if early {
        add("-serial", "chardev:console".into());
    }
    // Without this device a guest has no entropy for about a second, and getrandom(2) waits for it.
    add("-object", "rng-builtin,id=rng".into());
    add("-device", "virtio-rng-device,rng=rng".into());
    if let Some(fd) = fds.token {
        add("-chardev", format!("socket,id=token,fd={fd}").into());
        // The guest's device is /dev/vport<n>p1.
        add("-device", "virtserialport,chardev=token,nr=1,name=pepita.token".into());
    }
    add("-chardev", format!("socket,id=qmp,fd={},server=on,wait=on", fds.qmp).into());
    add("-mon", "chardev=qmp,mode=control".into());
    match request.transport {
        Transport::Vhost => {
            let (cid, fd) = (config.cid, fds.vsock);
            add("-device", format!("vhost-vsock-device,guest-cid={cid},vhostfd={fd}").into());
        }
        Transport::Hybrid => {
            add("-chardev", format!("socket,id=vsock,fd={}", fds.vsock).into());
            add("-device", "vhost-user-vsock-device,chardev=vsock".into());
        }
    }
    // By this device a guest gives memory back while it sleeps. It loads the driver when it is asked to.
    add("-device", "virtio-balloon-device,deflate-on-oom=on".into());
    add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".into());
    for flag in ["-no-reboot", "-nodefaults", "-no-user-config"] {
        argv.push(flag.into());
    }
    argv.extend(["-display".into(), "none".into()]);
    argv
}

/// Returns whether the kernel is to write its first messages on the first serial port: `--cmdline-append
/// "earlyprintk=ttyS0"`. They are a part of the console's output then.
fn wants_early_console(request: &VmRequest) -> bool {
    request.cmdline_append.split_ascii_whitespace().any(|word| {
        ["earlyprintk=", "earlycon", "console=ttyS0"].iter().any(|option| word.starts_with(option))
    })
}

/// Returns QEMU's option for a disk that outlives its VM. Whatever the guest has flushed is on the host's disk (QEMU
/// calls fdatasync(2)), and space that the guest frees is given back to the host.
fn data_drive(disk: &Disk, handed: Handed) -> String {
    let read_only = if disk.read_only { "on" } else { "off" };
    let (id, file) = (drive_id(&disk.name), handed.options(""));
    // QEMU would first look for a descriptor that can only be read.
    let options = format!("format=raw,discard=unmap,cache=writeback,auto-read-only=off,readonly={read_only}");
    format!("if=none,id={id},{options},{file}")
}

/// Returns QEMU's name for the drive of a disk, by which the monitor knows the disk in an error.
fn drive_id(name: &str) -> String {
    format!("{DRIVE_PREFIX}{name}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm_config::tests::{claimed, request, tap};

    fn text(request: VmRequest) -> String {
        let config = claimed(request);
        let cmdline = cmdline(&config, "t0k");
        let file = options_file(&config, &cmdline);
        let append = if file.is_some() { Append::File("boot.cfg") } else { Append::Argument(&cmdline) };
        let token = config.request.token_port.then_some(6);
        let handed = |fd| Handed { fd, is_device: fd == 10 };
        let fds = Descriptors {
            qmp: 4,
            vsock: 5,
            token,
            tap: Some(7),
            shares: &[],
            root: Some(handed(8)),
            layer: Some(handed(9)),
            disks: &[handed(10), handed(11)],
        };
        let argv = argv(&config, append, fds);
        argv.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn an_emulated_guest_is_told_its_tsc_and_its_secrets_are_not_in_the_argv() {
        let text = text(request());
        assert!(
            text.contains("tsc_early_khz=2000000 tsc=reliable") && text.contains("pepita.incarnation=7"),
            "{text}"
        );
        assert!(text.contains("loglevel=7") && !text.contains("s3"), "{text}");
    }

    #[test]
    fn a_guest_on_real_cpus_keeps_its_mitigations_and_security_modules() {
        let on = |accel| text(VmRequest { accel, ..request() });
        for word in ["mitigations=off", "lsm=", "noreplace-smp"] {
            assert!(on(Accel::Tcg).contains(word) && !on(Accel::Kvm).contains(word), "{word}");
        }
    }

    #[test]
    fn an_emulated_guest_leaves_steps_of_its_start_out_unless_the_user_names_other_ones() {
        let lists = |accel, append: &str| {
            let text = text(VmRequest { accel, cmdline_append: append.to_owned(), ..request() });
            (text.matches("initcall_blacklist=").count(), text.contains(LEFT_OUT))
        };
        assert_eq!(lists(Accel::Tcg, "loglevel=7"), (1, true));
        assert_eq!(lists(Accel::Kvm, "loglevel=7"), (0, false));
        assert_eq!(lists(Accel::Tcg, "initcall_blacklist="), (1, false));
    }

    #[test]
    fn a_full_disk_of_the_host_is_an_error_in_the_guest() {
        let text = text(VmRequest { root: Root::Disk { image: "/i".into(), initrd: None }, ..request() });
        assert!(text.contains("drive=root,werror=report,rerror=report"), "{text}");
    }

    #[test]
    fn the_root_of_a_container_image_is_not_written_to() {
        let root = Root::Shared { image: "/i.ext4".into(), initrd: "/initrd".into() };
        let text = text(VmRequest { root, ..request() });
        let drive = "format=raw,readonly=on,file.driver=file,file.filename=/dev/fdset/8 ";
        assert!(text.contains(drive) && text.contains("-add-fd fd=8,set=8"), "{text}");
        assert!(text.contains("-initrd /initrd") && !text.contains("root=/dev/vda"), "{text}");
    }

    #[test]
    fn the_first_serial_port_is_there_when_the_kernel_is_to_use_it() {
        let of = |append: &str| text(VmRequest { cmdline_append: append.into(), ..request() });
        let early = of("loglevel=7 earlyprintk=ttyS0");
        assert!(early.contains("isa-serial=on") && early.contains("-serial chardev:console"), "{early}");
        let usual = of("loglevel=7");
        assert!(usual.contains("isa-serial=off") && !usual.contains("-serial chardev"), "{usual}");
    }

    #[test]
    fn the_boot_token_is_in_no_argument_and_an_older_agent_finds_it_on_its_command_line() {
        let older = VmRequest { token_port: false, ..request() };
        for request in [request(), older.clone()] {
            let text = text(request);
            assert!(!text.contains("t0k"), "{text}");
        }
        let config = claimed(older);
        let line = cmdline(&config, "t0k");
        let file = options_file(&config, &line).expect("it fits");
        assert_eq!(file, format!("[machine]\n append = \"{line}\"\n"));
        assert!(line.contains("pepita.token=t0k") && !line.contains("token_port"), "{line}");
        let config = claimed(request());
        let line = cmdline(&config, "t0k");
        assert!(line.contains("pepita.token_port=3 ") && options_file(&config, &line).is_none(), "{line}");
        assert_eq!(options_file(&claimed(VmRequest { token_port: false, ..request() }), "a=\"b\""), None);
    }

    #[test]
    fn an_emulated_guest_gets_its_memory_and_what_qemu_needs() {
        let demand = |accel| demand(&VmRequest { accel, ..request() });
        assert_eq!((demand(Accel::Tcg).memory_mb, demand(Accel::Kvm).memory_mb), (320, 256));
        let size = |memory_mb| translated_mb(&VmRequest { memory_mb, ..request() });
        assert_eq!([96, 256, 4096].map(size), [64, 128, 256]);
    }

    #[test]
    fn the_kernel_transport_gets_the_claimed_descriptor() {
        let text = text(VmRequest { transport: Transport::Vhost, accel: Accel::Kvm, ..request() });
        assert!(text.contains("vhost-vsock-device,guest-cid=42,vhostfd=5"), "{text}");
        assert!(text.contains("-cpu host") && !text.contains("tsc_early_khz"), "{text}");
    }

    #[test]
    fn a_guest_has_a_network_card_when_it_is_asked_for() {
        let of = |network| text(VmRequest { network, ..request() });
        let without = of(Network::None);
        assert!(!without.contains("netdev") && !without.contains("virtio-net"), "{without}");
        let with = of(Network::User);
        assert!(with.contains("-netdev user,id=net,ipv6=off -device virtio-net-device,netdev=net"), "{with}");
        let tap = text(VmRequest { network: Network::Tap, tap: Some(tap()), ..request() });
        let card = "-netdev tap,id=net,fd=7 -device virtio-net-device,netdev=net,mac=02:fd:0a:d5:07:02";
        assert!(tap.contains(card), "{tap}");
    }

    #[test]
    fn a_disk_is_handed_to_qemu_open_and_its_name_is_in_no_option() {
        let root = Root::Disk { image: "/a,b.ext4".into(), initrd: None };
        let disk = |name: &str| Disk {
            name: name.into(),
            file: format!("/{name},img").into(),
            dir: None,
            size_mb: None,
            mount: "/d".into(),
            read_only: name == "y",
        };
        let text = text(VmRequest { root, disks: vec![disk("x"), disk("y")], ..request() });
        assert!(
            text.contains("root=/dev/vda") && !text.contains(".ext4") && !text.contains(",img"),
            "{text}"
        );
        for part in [
            "format=qcow2,cache=unsafe,auto-read-only=off,file.driver=file,file.filename=/dev/fdset/9,",
            "backing.driver=raw,backing.read-only=on,backing.file.driver=file,backing.file.filename=/dev/fdset/8 ",
            "id=disk-x,format=raw,discard=unmap,cache=writeback,auto-read-only=off,readonly=off,file.driver=host_device,file.filename=/dev/fdset/10 ",
            "readonly=on,file.driver=file,file.filename=/dev/fdset/11 ",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
