use std::process::ExitCode;

fn strakes(planks: u64) -> u64 {
    2 * planks
}

fn main() -> ExitCode {
    match std::env::args().nth(1).map(|text| text.parse()) {
        Some(Ok(planks)) => println!("rust app: {planks} planks a side, {} strakes", strakes(planks)),
        _ => {
            eprintln!("usage: strakes PLANKS");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

#[test]
fn two_strakes_a_plank() {
    assert_eq!(strakes(12), 24);
}
