//! What a program sees that runs inside one of our guests. `tests/vhost.rs` runs this there; elsewhere there is nothing to see.

use pepita_supervisor::platform::{Platform, detect_platform, select_adapter};

#[test]
fn a_program_in_a_guest_knows_where_it_is_and_which_adapter_fits() {
    if std::env::var_os("PEPITA_TEST_LOOPBACK").is_none() {
        println!("not inside a guest: shown by tests/vhost.rs");
        assert_ne!(detect_platform(), Platform::PepitaMicroVM, "a test on a host is no guest");
        return;
    }
    assert_eq!(detect_platform(), Platform::PepitaMicroVM);
    let cid = std::env::var("PEPITA_VSOCK_CID").expect("the agent sets it");
    let mark = std::fs::read_to_string("/run/pepita/guest").expect("the agent's mark");
    assert!(mark.lines().any(|line| line == format!("cid={cid}")), "{mark}");
    assert!(select_adapter(detect_platform()).is_ok());
    println!("platform: {}, CID {cid}", detect_platform());
}
