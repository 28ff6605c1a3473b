//! Signals as a stream.

use std::io;

use async_signal::{Signal, Signals as Raw};
use smol::stream::StreamExt;

/// What somebody wants of the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish {
    /// SIGTERM: stop in order.
    Terminate,
    /// SIGINT: the same, from a terminal.
    Interrupt,
    /// SIGHUP: read again what can change while running.
    Hangup,
}

/// The stream. While it lives the three signals no longer end the process.
pub struct Signals(Raw);

impl Signals {
    /// Begins to catch the signals.
    pub fn new() -> io::Result<Signals> {
        Raw::new([Signal::Term, Signal::Int, Signal::Hup]).map(Signals)
    }

    /// Waits for the next one. Errors are the kernel's.
    pub async fn next(&mut self) -> io::Result<Wish> {
        loop {
            match self.0.next().await {
                Some(Ok(Signal::Term)) => return Ok(Wish::Terminate),
                Some(Ok(Signal::Int)) => return Ok(Wish::Interrupt),
                Some(Ok(Signal::Hup)) => return Ok(Wish::Hangup),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Err(io::Error::other("the stream of signals ended")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Signal as Number, getpid, kill_process};

    #[test]
    fn a_hangup_is_seen_and_survived() {
        let mut signals = Signals::new().unwrap();
        kill_process(getpid(), Number::HUP).unwrap();
        assert_eq!(smol::block_on(signals.next()).unwrap(), Wish::Hangup);
    }
}
