//! `policy`: what a verb needs of IAM. Changes nothing.

use serde_json::Value;

use super::plan::{Wishes, decide, iam_place, prepare};
use super::policy_args::{BakePolicyArgs, PolicyVerb};
use crate::bake::names::Channel;
use crate::bake::plan::Decision;
use crate::cli::context::{Connected, Context, cloud};
use crate::cli::error::{CliError, CliResult};
use crate::cli::{exit, output};
use crate::{aws, iam};

pub async fn run(context: &Context, of: &PolicyVerb) -> CliResult {
    let connected = context.connect().await?;
    let place = iam_place(&connected);
    let bundles = context.settings.bundles.as_ref();
    let policy = match of {
        PolicyVerb::Bake(args) => of_bake(context, &connected, args).await?,
        PolicyVerb::Images => iam::images(place),
        PolicyVerb::Gc => iam::gc(bundles, place),
        PolicyVerb::Run => iam::look_inside(place),
        PolicyVerb::Roll { group } => {
            let found = aws::groups::raw_group(&connected.clients, group)
                .await
                .map_err(|error| cloud(&error))?;
            let template = found.and_then(|group| group.launch_template?.launch_template_id);
            iam::roll(group, template.as_deref(), place)
        }
        PolicyVerb::Fleet { group } => iam::fleet(group, place),
    };
    output::json(&policy)?;
    Ok(exit::DONE)
}

/// Of a whole bake, also where an image is there already.
async fn of_bake(
    context: &Context,
    connected: &Connected,
    args: &BakePolicyArgs,
) -> Result<Value, CliError> {
    let order = prepare(context, &args.recipe, &args.sets.given())?;
    let order = order.pinned(connected)?;
    let channel = if args.candidate {
        Channel::Candidate
    } else {
        Channel::Latest
    };
    let wishes = Wishes::new(true, channel, true);
    let Decision::Bake(plan) = decide(context, connected, &order, wishes).await? else {
        return Err(CliError::new(exit::BUG, "a forced bake found its image"));
    };
    let place = iam_place(connected);
    if args.builder {
        return iam::builder(&plan, place).ok_or_else(|| {
            CliError::failure(format!(
                "the builder of {} needs nothing but AmazonSSMManagedInstanceCore",
                args.recipe
            ))
        });
    }
    let bundles = context.settings.bundles.as_ref();
    Ok(iam::bake(&plan, &order.base, bundles, place))
}
