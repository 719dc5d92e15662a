//! Builds QEMU's command line for a microVM. Runs no process.
//!
//! The options come from measurements: modern Debian kernels find microvm's devices through ACPI, an emulated guest
//! needs the frequency of its TSC as a parameter, and `reboot=t panic=-1` with `-no-reboot` makes QEMU end with the
//! guest.

use crate::host::cgroup::Demand;
use crate::rundir::layout;
use crate::vm_config::{Accel, Root, VmConfig, VmRequest};
use pepita_wire::record::Transport;
use std::ffi::OsString;
use std::path::Path;

/// The size of QEMU's cache of translated code for an emulated guest, in MiB. (QEMU's default is an eighth of the
/// host's memory, up to 1 GiB.)
const TRANSLATED_MB: u64 = 128;

/// The memory that QEMU and the vsock back-end need in addition to the guest's memory, in MiB.
const OVERHEAD_MB: u64 = 128;

/// The descriptors that QEMU inherits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Descriptors {
    /// A listening socket for the QEMU monitor protocol.
    pub qmp: i32,
    /// `/dev/vhost-vsock` with the CID set, on the kernel transport; else a connection to the back-end.
    pub vsock: i32,
}

/// Returns the resources that a VM may use: the guest's memory and the memory of its emulation, and the virtual CPUs.
pub(crate) fn demand(request: &VmRequest) -> Demand {
    let emulator = if request.accel == Accel::Tcg { TRANSLATED_MB } else { 0 };
    let memory_mb = request.memory_mb + OVERHEAD_MB + emulator;
    Demand { name: request.name.clone(), memory_mb, cpus: request.cpus }
}

/// Returns the kernel's command line.
pub(crate) fn cmdline(config: &VmConfig, token: &str) -> String {
    let request = &config.request;
    let mut words =
        vec!["console=hvc0 quiet reboot=t panic=-1 mitigations=off cryptomgr.notests lsm=".to_owned()];
    if let (Accel::Tcg, Some(khz)) = (request.accel, request.tsc_khz) {
        words.push(format!("tsc_early_khz={khz}"));
    }
    if let Root::Disk { initrd: None, .. } = request.root {
        words.push("root=/dev/vda rw init=/sbin/daemonctl".to_owned());
    }
    let VmConfig { cid, incarnation, .. } = config;
    let port = request.port;
    words.push(format!(
        "pepita.token={token} pepita.port={port} pepita.incarnation={incarnation} pepita.cid={cid}"
    ));
    if !request.cmdline_append.is_empty() {
        words.push(request.cmdline_append.clone());
    }
    words.join(" ")
}

/// Returns QEMU's arguments. QEMU runs in the VM's run directory, so that sockets have short names.
pub(crate) fn argv(config: &VmConfig, cmdline: &str, fds: Descriptors) -> Vec<OsString> {
    let request = &config.request;
    let mut argv: Vec<OsString> = Vec::new();
    let mut add = |option: &str, value: OsString| argv.extend([OsString::from(option), value]);
    let memory = format!("{}M", request.memory_mb);
    // The memory is shared with the vsock back-end, which is another process.
    add("-M", "microvm,memory-backend=mem,isa-serial=off".into());
    add("-object", format!("memory-backend-memfd,id=mem,size={memory},share=on").into());
    add(
        "-accel",
        match request.accel {
            Accel::Tcg => format!("tcg,tb-size={TRANSLATED_MB}").into(),
            accel @ (Accel::Kvm | Accel::None) => accel.as_str().into(),
        },
    );
    if request.accel == Accel::Kvm {
        add("-cpu", "host".into());
    }
    add("-m", memory.into());
    add("-smp", request.cpus.to_string().into());
    add("-name", request.name.clone().into());
    if let Some(kernel) = &request.kernel {
        add("-kernel", kernel.into());
    }
    match &request.root {
        Root::Initramfs(image) => add("-initrd", image.into()),
        Root::Disk { image, initrd } => {
            if let Some(initrd) = initrd {
                add("-initrd", initrd.into());
            }
            // Writes go to a temporary file that ends with the VM, so every incarnation starts from the same image.
            add("-drive", drive(image));
            add("-device", "virtio-blk-device,drive=root".into());
        }
        Root::Host(_) => {}
    }
    add("-append", cmdline.into());
    add("-device", "virtio-serial-device".into());
    add("-chardev", format!("pipe,id=console,path={}", layout::CONSOLE_PIPES).into());
    add("-device", "virtconsole,chardev=console".into());
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
    add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".into());
    for flag in ["-no-reboot", "-nodefaults", "-no-user-config"] {
        argv.push(flag.into());
    }
    argv.extend(["-display".into(), "none".into()]);
    argv
}

/// Returns QEMU's option for a disk. A comma in the file name is doubled, because a single comma ends a value.
fn drive(image: &Path) -> OsString {
    let mut drive = OsString::from("if=none,id=root,format=raw,snapshot=on,file=");
    drive.push(image.to_string_lossy().replace(',', ",,"));
    drive
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm_config::tests::{claimed, request};

    fn text(request: VmRequest) -> String {
        let config = claimed(request);
        let fds = Descriptors { qmp: 4, vsock: 5 };
        let argv = argv(&config, &cmdline(&config, "t0k"), fds);
        argv.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn an_emulated_guest_is_told_its_tsc_and_its_secrets_are_not_in_the_argv() {
        let text = text(request());
        assert!(text.contains("tsc_early_khz=2000000") && text.contains("pepita.incarnation=7"), "{text}");
        assert!(text.contains("loglevel=7") && !text.contains("s3"), "{text}");
    }

    #[test]
    fn an_emulated_guest_gets_its_memory_and_what_qemu_needs() {
        let demand = |accel| demand(&VmRequest { accel, ..request() });
        assert_eq!((demand(Accel::Tcg).memory_mb, demand(Accel::Kvm).memory_mb), (384, 256));
    }

    #[test]
    fn the_kernel_transport_gets_the_claimed_descriptor() {
        let text = text(VmRequest { transport: Transport::Vhost, accel: Accel::Kvm, ..request() });
        assert!(text.contains("vhost-vsock-device,guest-cid=42,vhostfd=5"), "{text}");
        assert!(text.contains("-cpu host") && !text.contains("tsc_early_khz"), "{text}");
    }

    #[test]
    fn a_comma_in_an_image_s_name_ends_no_option() {
        let root = Root::Disk { image: "/a,b.ext4".into(), initrd: None };
        let text = text(VmRequest { root, ..request() });
        assert!(text.contains("file=/a,,b.ext4") && text.contains("root=/dev/vda"), "{text}");
    }
}
