//! Many channels with few subscribers each, publications over HTTP to each channel in turn: what is paid for each publication
//! weighs as much as what is paid for each delivery.

use clap::Args;

use super::error::BenchError;
use super::fan_out::{self, Plan};
use super::pace::{Amount, Pacing};
use super::session::Transport;
use super::{Common, Outcome};

#[derive(Args, Debug)]
#[command(mut_arg("load", |load| load.default_value("30")))]
pub struct ChannelsArgs {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(flatten)]
    pacing: Pacing,
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    channels: u32,
    /// Subscribers of each channel.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    subscribers: u32,
    /// Publications that are measured, of all channels; an open loop after the closed one publishes half as many.
    #[arg(long, default_value_t = 40_000)]
    publications: u64,
    /// Publications before those.
    #[arg(long, default_value_t = 5000)]
    warmup: u64,
    /// Seconds after which the closed loop publishes no more, if it has not published all. The warm-up has a third of that, the
    /// open loop half. Default: as long as it takes.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: Option<u32>,
    /// Bytes of a payload.
    #[arg(long, default_value_t = 128)]
    payload: usize,
    /// Publications that a closed loop has on their way at a time.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=512))]
    in_flight: u64,
    /// What their names begin with; the number of the channel follows.
    #[arg(long, default_value = "bench")]
    channel: String,
}

pub fn run(args: &ChannelsArgs) -> Result<Outcome, BenchError> {
    fan_out::run_plan(&Plan {
        load: "channels",
        common: &args.common,
        pacing: args.pacing.clone(),
        channels: Some(args.channels as usize),
        subscribers: args.subscribers as usize,
        publications: Amount::within(args.publications, args.seconds),
        warmup: args.warmup,
        payload: args.payload,
        transport: Transport::Ws,
        deflate: false,
        in_flight: args.in_flight,
        channel: &args.channel,
    })
}
