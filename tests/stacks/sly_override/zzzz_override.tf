terraform {
  backend "local" {
    path = "elsewhere.json"
  }
}
