//! What a bake does, phase by phase. Each function acts through the run: journalled, cancellable, told as events.

pub(super) mod commands;
pub(super) mod deliver;
pub(super) mod image;
pub(super) mod launch;
pub(super) mod layer;
pub(super) mod list;
mod places;
pub(super) mod publish;
pub(super) mod scripts;
