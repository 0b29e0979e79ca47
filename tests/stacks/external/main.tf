data "external" "program" {
  program = ["sh", "-c", "echo '{}'"]
}
