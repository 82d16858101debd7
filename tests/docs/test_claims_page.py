"""docs/claims.md: each recipe of a claim stands there with its command."""

from pages import DOCS, ROOT

PAGE = (DOCS / "claims.md").read_text("utf-8")


def test_each_recipe_of_a_claim_has_a_row() -> None:
    paths = [*ROOT.glob("recipes/claims/*.yaml"), *ROOT.glob("plugins/*/*/recipes/claims/*.yaml")]
    names = {f"claims/{path.stem}" for path in paths}
    assert names >= {"claims/bpsn-firing", "claims/dsn-firing"}
    missing = {name for name in names if f"`sj-lang run {name}" not in PAGE}
    assert missing == set()
