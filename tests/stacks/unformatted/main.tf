resource "terraform_data" "a" {
      input = nothing.here
}
