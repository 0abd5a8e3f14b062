//! A fleet and its roll by those who have the printed policies and no more.

use super::*;

#[tokio::test]
async fn a_fleet_and_its_roll_need_their_policies_and_no_more() {
    let plan = Plan {
        judged: true,
        rolls: 1,
        ..Plan::stormy(150)
    };
    let outcome = simulate(plan, None).await;
    assert_eq!(outcome.faults, Vec::<String>::new(), "seed {}", plan.seed);
    // Whoever does something else is refused, and then this is not reached. A roll turns back in its own tests.
    let justified = [
        // To name the number that a group's `$Latest` stands for, as it is refused.
        "Look ec2:DescribeLaunchTemplateVersions",
        // What a worker says that has more to say than a list of commands shows.
        "Look ssm:GetCommandInvocation",
    ];
    assert_eq!(outcome.unneeded, justified.map(str::to_owned).into());
}
