//! Nothing fails: what a move costs clients.

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::clients::Client;
use harness::mirror::Mirror;
use harness::proxy::Proxy;
use harness::stage::Side;
use jiff::Timestamp;

use crate::{go_on, on_stage};

/// Moves each way.
const MOVES: usize = 2;

const CLIENTS: [Client; 4] = [Client::Rdkafka, Client::Java4, Client::Java28, Client::FranzGo];

/// What the last move took.
pub(crate) struct Took {
    /// From the hold to the flip, by a proxy's log.
    held: Duration,
    /// From the flip to the first batch that was copied the other way, by the mirror's log. `None`: there was none yet.
    back: Option<Duration>,
}

impl Took {
    pub(crate) fn by(proxy: &Proxy, mirror: &Mirror) -> Result<Self> {
        let log = proxy.log()?;
        let at = |message: &str| -> Result<Timestamp> {
            let line = log.iter().rfind(|line| line["message"] == message).with_context(|| format!("no line says {message:?}"))?;
            Ok(line["timestamp"].as_str().context("a timestamp")?.parse()?)
        };
        let (hold, flip) = (at("a move: what is produced to its topics waits")?, at("a move: the other cluster leads")?);
        let copied = mirror.logs()?;
        let copied = copied.lines().filter(|line| line.contains("the first batch is copied"));
        let mut copied = copied.filter_map(|line| line.split_whitespace().next()?.parse::<Timestamp>().ok());
        let back = copied.find(|at| *at > flip).map(|at| (at - flip).try_into()).transpose()?;
        Ok(Self { held: (flip - hold).try_into()?, back })
    }
}

impl fmt::Display for Took {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "held for {:.0?}, copied back {:.0?} later", self.held, self.back.unwrap_or_default())
    }
}

#[test]
fn topics_move_there_and_back_while_clients_run() -> Result<()> {
    on_stage(|stage| {
        stage.has_proxies(1)?;
        let going = CLIENTS.into_iter().map(|client| stage.going(0, client, client.name())).collect::<Result<Vec<_>>>()?;
        go_on(&going)?;
        // How long each stands still without a move.
        for going in &going {
            going.soak.seen();
        }
        go_on(&going)?;
        let still: Vec<_> = going.iter().map(|going| going.soak.seen()).collect();
        for n in 0..MOVES {
            for home in [Side::New, Side::Legacy] {
                let took = stage.move_to(home, &going).with_context(|| format!("move {n} to {home:?}"))?;
                go_on(&going).with_context(|| format!("after move {n} to {home:?}"))?;
                println!("move {n} to {home:?}: {took:.0?} after the edit, {}", Took::by(&stage.proxies[0], &stage.mirror)?);
                for (going, still) in going.iter().zip(&still) {
                    let seen = going.soak.seen();
                    println!(
                        "  {}: {:.2?} without acknowledgements ({:.2?} without a move), {:.2?} without reads ({:.2?})",
                        going.soak.name(),
                        seen.longest_ack_pause,
                        still.longest_ack_pause,
                        seen.longest_consume_pause,
                        still.longest_consume_pause
                    );
                    ensure!(seen.errors.is_empty() && seen.again == 0, "{}: {seen:?}", going.soak.name());
                }
            }
        }
        stage.ends(going, false).map(drop)
    })
}
