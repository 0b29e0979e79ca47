terraform {
  required_providers {
    stranger = {
      source = "someone/stranger"
    }
  }
}

resource "stranger_thing" "a" {}
