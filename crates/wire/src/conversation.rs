//! Conversations, from the side of the client: bytes come in; news and lines to write go out.
//!
//! No I/O, no clock, no async runtime. The owner of the socket moves the bytes, keeps the deadlines and acts on the
//! news. The rules against a hostile or broken peer (caps, bounds, bad lines) are implemented here, once for every
//! client.
//!
//! - [`AgentConversation`]: with a guest agent, over any number of connections. The guest is not trusted.
//! - [`ControlConversation`]: over the control socket of a monitor or a supervisor, without a hello.
//!
//! A loop around an [`AgentConversation`] reads like this:
//!
//! ```
//! use pepita_wire::conversation::{AgentConversation, News};
//! # use std::io::{Read, Write};
//! # fn run(mut stream: impl Read + Write) -> Result<(), Box<dyn std::error::Error>> {
//! let mut conversation = AgentConversation::<()>::new(7);
//! conversation.connected("token".to_owned(), None);
//! let mut buffer = [0; 4096];
//! loop {
//!     stream.write_all(&conversation.take_output())?;
//!     let read = stream.read(&mut buffer)?;
//!     if read == 0 {
//!         break;
//!     }
//!     conversation.receive(&buffer[..read]);
//!     while let Some(news) = conversation.next_news()? {
//!         match news {
//!             News::Up { .. } => println!("the agent answers"),
//!             News::Answer { tag: (), outcome } => println!("{outcome:?}"),
//!             News::Event { seq, event, .. } => println!("{seq} {event:?}"),
//!         }
//!     }
//! }
//! println!("dial again in {:?}", conversation.disconnected().redial_after);
//! # Ok(())
//! # }
//! ```

mod agent;
mod control;

pub use agent::{
    AgentConversation, Disconnected, HELLO_DEADLINE, HangUp, News, NotAsked, REDIAL_MAX, REDIAL_MIN,
};
pub use control::{ControlConversation, ControlNews};
