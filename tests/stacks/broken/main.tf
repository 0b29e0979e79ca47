resource "terraform_data" "fine" {
  input = "fine"
}

resource "terraform_data" "broken" {
  input =
}
