//! A kingdom within the queen's process: a king and a duke who talk over a pair of sockets, and real peasants beside.

use distwasm_duke::Settings;
use distwasm_proto::link::{KingAddress, chain, local_door};
use tokio_util::sync::CancellationToken;

use crate::options::Options;

/// A king and a duke in this process.
pub struct Kingdom {
    /// Where the king is.
    pub address: KingAddress,
    shutdown: CancellationToken,
    members: tokio::task::JoinSet<Result<(), String>>,
}

impl Kingdom {
    /// Starts both. Nothing listens on the network.
    pub fn start(options: &Options) -> Kingdom {
        let (door, connections) = local_door();
        let address = KingAddress::Local(door);
        let mut settings = Settings::of_this_machine(address.clone(), options.peasant.clone(), options.cache.clone());
        if let Some(cpus) = options.num_cpus {
            settings.cpus = cpus;
        }
        if let Some(mb) = options.ram_limit {
            settings.ram_bytes = mb.saturating_mul(1 << 20);
        }
        let shutdown = CancellationToken::new();
        let mut members = tokio::task::JoinSet::new();
        let king = distwasm_king::run(connections, None, shutdown.clone());
        members.spawn(async move { king.await.map_err(|error| chain(&error)) });
        let duke = distwasm_duke::run(settings, shutdown.clone());
        members.spawn(async move { duke.await.map_err(|error| chain(&error)) });
        Kingdom { address, shutdown, members }
    }

    /// Waits until one of the two cannot go on, and says why.
    pub async fn trouble(&mut self) -> String {
        match self.members.join_next().await {
            Some(Ok(Ok(()))) => "the kingdom of this process ended early".to_owned(),
            Some(Ok(Err(why))) => why,
            Some(Err(panic)) => format!("the kingdom of this process failed: {panic}"),
            None => std::future::pending().await,
        }
    }

    /// Ends both; no peasant is left afterwards.
    pub async fn end(mut self) {
        self.shutdown.cancel();
        while self.members.join_next().await.is_some() {}
    }
}
