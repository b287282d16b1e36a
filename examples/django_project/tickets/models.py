"""Tickets: what customers write."""

from django.db import models
from django.urls import reverse


class Ticket(models.Model):
    """Its summary is empty until Claude has answered."""

    id = models.BigAutoField(primary_key=True)
    title = models.CharField(max_length=200)
    text = models.TextField()
    summary = models.TextField(blank=True)

    def __str__(self):
        return self.title

    def get_absolute_url(self):
        """Its page."""
        return reverse("ticket", args=[self.pk])
