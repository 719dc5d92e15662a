//! Merges the output of several VMs in the order of time.

use super::lines::Line;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// How long the lines of other VMs wait for one that has just said something, when output is followed.
const QUIET: Duration = Duration::from_millis(100);

/// How long they wait for the first line of a VM, whose launcher has to start.
const BEGIN: Duration = Duration::from_secs(2);

/// The output of several VMs. At most one line of each is kept here.
#[derive(Debug)]
pub(super) struct Merge {
    sources: Vec<mpsc::Receiver<Line>>,
    /// The next line of each VM, the oldest first; of the same time that of the VM that was named first.
    heads: BinaryHeap<Reverse<(i64, usize, Vec<u8>)>>,
    /// The VMs without such a line, each with the moment from which on nobody waits for it.
    waiting: Vec<(usize, Option<Instant>)>,
    is_followed: bool,
}

impl Merge {
    /// Merges these outputs. Of output that is followed a line is printed although an older one may still come from a VM that
    /// has been silent.
    pub(super) fn new(sources: Vec<mpsc::Receiver<Line>>, is_followed: bool) -> Self {
        let until = is_followed.then(|| Instant::now() + BEGIN);
        let waiting = (0..sources.len()).map(|number| (number, until)).collect();
        Self { sources, heads: BinaryHeap::new(), waiting, is_followed }
    }

    /// Returns the next piece of output; `None` when all is over. Nothing is lost when this future is dropped.
    pub(super) async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let now = Instant::now();
            poll_fn(|context| Poll::Ready(self.take(context))).await;
            if self.heads.is_empty() && self.waiting.is_empty() {
                return None;
            }
            // The moment at which nobody is waited for any more; `None` = never.
            let until = self
                .waiting
                .iter()
                .map(|(_, until)| *until)
                .try_fold(now, |latest, until| Some(latest.max(until?)));
            if !self.heads.is_empty() && until.is_some_and(|until| until <= now) {
                let Reverse((_, number, text)) = self.heads.pop()?;
                self.waiting.push((number, self.is_followed.then(|| now + QUIET)));
                return Some(text);
            }
            let any = poll_fn(|context| if self.take(context) { Poll::Ready(()) } else { Poll::Pending });
            match until.filter(|until| *until > now) {
                Some(until) => drop(timeout_at(until, any).await),
                None => any.await,
            }
        }
    }

    /// Takes a line of each VM that has one. Returns whether anything has changed.
    fn take(&mut self, context: &mut Context<'_>) -> bool {
        let before = self.waiting.len();
        let Self { sources, heads, waiting, .. } = self;
        waiting.retain(|(number, _)| match sources[*number].poll_recv(context) {
            Poll::Pending => true,
            Poll::Ready(line) => {
                heads.extend(line.map(|line| Reverse((line.at_ms, *number, line.text))));
                false
            }
        });
        waiting.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    fn line(at_ms: i64, text: &str) -> Line {
        Line { at_ms, text: text.as_bytes().to_vec() }
    }

    fn two(is_followed: bool) -> (mpsc::Sender<Line>, mpsc::Sender<Line>, Merge) {
        let ((a, from_a), (b, from_b)) = (mpsc::channel(9), mpsc::channel(9));
        (a, b, Merge::new(vec![from_a, from_b], is_followed))
    }

    async fn rest(merge: &mut Merge) -> String {
        let mut text = String::new();
        while let Ok(Some(line)) = timeout(BEGIN * 5, merge.next()).await {
            text += std::str::from_utf8(&line).expect("text");
        }
        text
    }

    #[tokio::test(start_paused = true)]
    async fn lines_are_printed_in_the_order_of_time_and_wait_for_those_that_come_late() {
        let (a, b, mut merge) = two(false);
        for (sender, at, text) in
            [(&a, 1, "a1 "), (&a, 5, "a5 "), (&b, 2, "b2 "), (&b, 5, "b5 "), (&a, 5, "a5 ")]
        {
            sender.send(line(at, text)).await.expect("room");
        }
        assert_eq!(merge.next().await.as_deref(), Some(&b"a1 "[..]));
        drop(b);
        assert_eq!(rest(&mut merge).await, "b2 a5 a5 ", "the next line of a may be older than that of b");
        a.send(line(4, "late ")).await.expect("room");
        drop(a);
        assert_eq!(rest(&mut merge).await, "late b5 ");
        assert_eq!(merge.next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_vm_holds_up_no_line_that_is_followed() {
        let (a, b, mut merge) = two(true);
        a.send(line(9, "a9 ")).await.expect("room");
        let first = Instant::now();
        assert!(timeout(BEGIN / 2, merge.next()).await.is_err(), "b may begin");
        b.send(line(1, "b1 ")).await.expect("room");
        assert_eq!(merge.next().await.as_deref(), Some(&b"b1 "[..]));
        assert_eq!(merge.next().await.as_deref(), Some(&b"a9 "[..]));
        assert!(first.elapsed() <= BEGIN / 2 + QUIET, "b is silent by now");
        a.send(line(10, "a10 ")).await.expect("room");
        let said = Instant::now();
        assert_eq!(merge.next().await.as_deref(), Some(&b"a10 "[..]));
        assert_eq!(said.elapsed(), Duration::ZERO);
        drop((a, b));
        assert_eq!(merge.next().await, None);
    }
}
