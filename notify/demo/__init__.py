"""The live demo of `notify dev`: what a newcomer opens first. Never part of a service in production."""
