use super::*;
use proptest::prelude::*;
use serde_json::json;

type Conversation = AgentConversation<&'static str>;

fn hello(incarnation: u64) -> Vec<u8> {
    ToHost::Hello(Hello { protocol_version: 1, incarnation, ..Hello::default() }).encode()
}

fn exited(seq: u64) -> Vec<u8> {
    format!("{{\"seq\":{seq},\"event\":\"exited\",\"data\":{{\"code\":3}}}}\n").into_bytes()
}

fn answer(id: u64) -> Vec<u8> {
    ToHost::Answer { id, outcome: Ok(json!({})) }.encode()
}

fn read(conversation: &mut Conversation, bytes: &[u8]) -> Result<Vec<News<&'static str>>, HangUp> {
    conversation.receive(bytes);
    let mut all = Vec::new();
    while let Some(news) = conversation.next_news()? {
        all.push(news);
    }
    Ok(all)
}

fn greet(conversation: &mut Conversation) {
    conversation.connected("t".into(), None);
    conversation.take_output();
    assert_eq!(read(conversation, &hello(7)), Ok(vec![News::Up { protocol_version: 1 }]));
}

fn up() -> Conversation {
    let mut conversation = Conversation::new(7);
    greet(&mut conversation);
    conversation
}

fn output(conversation: &mut Conversation) -> String {
    String::from_utf8(conversation.take_output()).expect("JSON is UTF-8")
}

#[test]
fn the_hello_names_the_incarnation_and_both_tokens() {
    let mut conversation = Conversation::new(7);
    conversation.connected("boot".into(), Some("session".into()));
    let Ok(ToGuest::Hello(hello)) = ToGuest::decode(output(&mut conversation).trim_end().as_bytes()) else {
        panic!("a hello")
    };
    assert_eq!((hello.incarnation, hello.protocol_version), (7, PROTOCOL_VERSION));
    assert_eq!((hello.token.as_deref(), hello.new_token.as_deref()), (Some("boot"), Some("session")));
}

#[test]
fn after_the_hellos_the_conversation_watches() {
    assert_eq!(output(&mut up()), "{\"id\":1,\"method\":\"watch\",\"params\":{\"since\":0}}\n");
}

#[test]
fn an_agent_of_another_incarnation_is_hung_up_on() {
    let mut conversation = Conversation::new(7);
    conversation.connected("t".into(), None);
    assert_eq!(read(&mut conversation, &hello(6)), Err(HangUp::OtherIncarnation { theirs: 6, ours: 7 }));
}

#[test]
fn a_refusal_instead_of_a_hello_ends_the_connection() {
    let mut conversation = Conversation::new(7);
    conversation.connected("t".into(), None);
    let error = WireError::new(ErrorKind::Unauthorized, "wrong token");
    let line = ToHost::Answer { id: 0, outcome: Err(error.clone()) }.encode();
    assert_eq!(read(&mut conversation, &line), Err(HangUp::Refused(error)));
}

#[test]
fn before_its_hello_an_agent_is_neither_asked_nor_heard() {
    let mut conversation = Conversation::new(7);
    assert_eq!(conversation.ask(Ask::Ping, "a").expect_err("down").tag, "a");
    conversation.connected("t".into(), None);
    conversation.take_output();
    let refused = conversation.ask(Ask::Ping, "b").expect_err("not greeted yet");
    assert_eq!((refused.tag, refused.error.kind), ("b", ErrorKind::Busy));
    assert!(!conversation.tell(Ask::PowerOff));
    assert_eq!(read(&mut conversation, &[exited(1), answer(1)].concat()), Ok(vec![]));
    assert_eq!(output(&mut conversation), "");
}

#[test]
fn each_answer_finds_its_question_once() {
    let mut conversation = up();
    let first = conversation.ask(Ask::Ping, "first").expect("up");
    let second = conversation.ask(Ask::Status, "second").expect("up");
    let bytes = [answer(second), answer(second), answer(99), answer(first)].concat();
    let tags: Vec<_> = read(&mut conversation, &bytes)
        .expect("good lines")
        .into_iter()
        .map(|news| match news {
            News::Answer { tag, .. } => tag,
            News::Up { .. } | News::Event { .. } => panic!("an answer"),
        })
        .collect();
    assert_eq!(tags, ["second", "first"]);
}

#[test]
fn a_request_that_was_forgotten_has_no_answer() {
    let mut conversation = up();
    let id = conversation.ask(Ask::Ping, "old").expect("up");
    assert_eq!(conversation.forget(id), Some("old"));
    assert_eq!(read(&mut conversation, &answer(id)), Ok(vec![]));
}

#[test]
fn an_exit_is_told_each_time_and_is_new_once_even_on_another_connection() {
    let mut conversation = up();
    let told = |news: Result<Vec<News<_>>, _>| match news.as_deref() {
        Ok([News::Event { is_new, .. }]) => *is_new,
        other => panic!("{other:?}"),
    };
    assert!(told(read(&mut conversation, &exited(5))));
    assert!(!told(read(&mut conversation, &exited(5))));
    conversation.disconnected();
    greet(&mut conversation);
    assert!(output(&mut conversation).contains("\"since\":5"));
    assert!(!told(read(&mut conversation, &exited(5))));
    let older = ToHost::Event { seq: 4, event: GuestEvent::Ready }.encode();
    assert_eq!(read(&mut conversation, &older), Ok(vec![]));
}

#[test]
fn requests_wait_in_bounded_number() {
    let mut conversation = up();
    for _ in 0..PENDING_CAP {
        conversation.ask(Ask::Ping, "a").expect("room");
    }
    assert_eq!(conversation.ask(Ask::Ping, "b").expect_err("full").error.kind, ErrorKind::Busy);
    assert_eq!(conversation.disconnected().unanswered.len(), PENDING_CAP);
}

#[test]
fn three_bad_lines_end_a_connection_and_what_came_before_them_is_told() {
    let mut conversation = up();
    let bytes = [&exited(1)[..], b"?\n", b"{}\n", b"[\n"].concat();
    conversation.receive(&bytes);
    assert!(matches!(conversation.next_news(), Ok(Some(News::Event { .. }))));
    assert!(matches!(conversation.next_news(), Err(HangUp::BadLines(_))));
    // The next connection begins with a count of its own.
    conversation.disconnected();
    greet(&mut conversation);
    assert_eq!(read(&mut conversation, b"?\n?\n"), Ok(vec![]));
}

#[test]
fn the_delay_of_a_redial_doubles_up_to_a_bound_and_starts_anew_after_a_hello() {
    let mut conversation = Conversation::new(7);
    let delays: Vec<_> = (0..9).map(|_| conversation.disconnected().redial_after).collect();
    assert_eq!((delays[0], delays[1], delays[8]), (REDIAL_MIN, REDIAL_MIN * 2, REDIAL_MAX));
    greet(&mut conversation);
    conversation.ask(Ask::Ping, "a").expect("up");
    let left = conversation.disconnected();
    assert_eq!((left.was_up, left.unanswered, left.redial_after), (true, vec!["a"], REDIAL_MIN));
    assert!(!conversation.disconnected().was_up);
}

#[test]
fn half_a_line_of_a_former_connection_is_not_continued() {
    let mut conversation = up();
    conversation.receive(b"{\"id\":1,");
    conversation.disconnected();
    greet(&mut conversation);
}

proptest! {
    #[test]
    fn whatever_a_guest_writes_memory_stays_within_the_cap(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..400), 0..20),
    ) {
        let mut conversation = up();
        for chunk in chunks {
            if read(&mut conversation, &chunk).is_err() {
                break;
            }
            prop_assert!(conversation.lines.pending() < crate::protocol::LINE_CAP);
        }
    }
}
