//! Edits that come before the last one is done.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::clients::Client;
use harness::stage::Side;

use crate::decisions::Phase;
use crate::{go_on, on_stage};

/// A reader that asks for metadata once, and then when a broker refuses it.
const NEVER_AGAIN: &[(&str, &str)] = &[("topic.metadata.refresh.interval.ms", "-1"), ("metadata.max.age.ms", "86400000")];

#[test]
fn the_last_wish_wins_and_a_reader_that_never_asks_for_metadata_goes_on() -> Result<()> {
    on_stage(|stage| {
        stage.has_proxies(1)?;
        let going = [stage.going_with(0, Client::Rdkafka, "edits", |job| job.settings[1] = NEVER_AGAIN)?, stage.plain(0, "edits-plain")?];
        go_on(&going)?;
        let wins = |home, what: &str| {
            let took = stage.leads(home, &going).context(what.to_owned())?;
            // Nothing else comes of what was wished before.
            let settled = stage.decisions.state()?.last_decision();
            std::thread::sleep(Duration::from_secs(2));
            ensure!(stage.decisions.state()?.last_decision() == settled, "{what}: something was decided afterwards");
            go_on(&going).context(what.to_owned())?;
            println!("{what}: {took:.2?} until {home:?} leads");
            anyhow::Ok(())
        };
        for home in [Side::New, Side::Legacy, Side::New] {
            stage.edit(home)?;
        }
        wins(Side::New, "three edits in a row")?;
        for (home, phase) in [(Side::Legacy, Phase::Held), (Side::Legacy, Phase::AllHold)] {
            let after = stage.edit(home)?;
            let at = stage.decisions.is_at(phase, after)?;
            stage.edit(home.other())?;
            wins(home.other(), &format!("reverted at {at:?}"))?;
        }
        stage.move_to(Side::Legacy, &going)?;
        go_on(&going)?;
        for going in &going {
            let seen = going.soak.seen();
            ensure!(seen.again == 0, "{}: {seen:?}", going.soak.name());
        }
        stage.ends(going.into(), false).map(drop)
    })
}
