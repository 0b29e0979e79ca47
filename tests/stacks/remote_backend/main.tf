terraform {
  backend "gcs" {
    bucket = "state"
  }
}

resource "terraform_data" "a" {}
